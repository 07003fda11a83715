"""RELION programs that work item by item (movies, micrographs): what a later attempt may keep.

They skip an item whose output exists, whole or not. So a later attempt of the same command first
removes the outputs of items that are not whole, and only then lets RELION skip the rest.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from scsched.steps import lineage, mrc, star
from scsched.steps.command import Command, fingerprint
from scsched.steps.star import Torn

_SKIPPING = {
    "relion_run_motioncorr": "--o",
    "relion_run_ctffind": "--o",
    "relion_preprocess": "--part_dir",
    "relion_autopick": "--odir",
}
"""Programs that know `--only_do_unfinished`, and the option that names their output folder."""
_SKIP = "--only_do_unfinished"
_ITEM_LABELS = ("rlnMicrographMovieName", "rlnMicrographName")
_ITEM_TABLES = ("movies", "micrographs", "")
_MAPS = frozenset({".mrc", ".mrcs", ".ctf"})


def prepared(command: Command, *, project: Path, say: Callable[[str], None]) -> Command:
    """The command as it is to run now, after what a former attempt left half done is gone."""
    for folder in output_folders(command, project=project):
        remove_marks(folder, say=say)
    option = _SKIPPING.get(command.name.removesuffix("_mpi"))
    sources = input_files(command, project=project)
    if option is None or not command.value(option) or not sources:
        return command
    folder = project / command.value(option)
    if not _same_as_before(command, folder):
        return command
    removed = remove_torn(folder, sources, coordinates=command.value("--coord_suffix"))
    say(f"removed {len(removed)} files of items that were not whole in {folder}")
    return command.added(_SKIP)


def output_folders(command: Command, *, project: Path) -> list[Path]:
    """Where the program leaves its RELION_JOB_* marks, as prefixes."""
    if control := command.value("--pipeline_control"):
        return [project / control / ""]
    option = _SKIPPING.get(command.name.removesuffix("_mpi"), "--o")
    value = command.value(option)
    if not value:
        return []
    return [project / value / "" if value.endswith("/") else (project / value).parent / ""]


def remove_marks(prefix: Path, *, say: Callable[[str], None]) -> None:
    """Remove the RELION_JOB_* files of a former attempt: one of them would end this one at once."""
    for mark in sorted(prefix.glob("RELION_JOB_*")):
        mark.unlink(missing_ok=True)
        say(f"removed {mark.name} of a former attempt")


def input_files(command: Command, *, project: Path) -> frozenset[Path]:
    """The movies or micrographs that `--i` names."""
    source = command.value("--i")
    if not source.endswith(".star"):
        return frozenset()
    try:
        return frozenset(
            project / next(name for name in names if name != "?")
            for table in _ITEM_TABLES
            for names in star.rows(project / source, table, *_ITEM_LABELS)
            if any(name != "?" for name in names)
        )
    except Torn:
        return frozenset()


def remove_torn(
    folder: Path, sources: frozenset[Path], *, coordinates: str = ""
) -> tuple[str, ...]:
    """Remove every output of the items of which one output is not whole; their names.

    Scipion puts what RELION reads into the same folder: micrographs, links to them, and coordinate
    files, which do not end as RELION's own do. All of that stays.

    :param coordinates: how the names of coordinate files end; empty: there are none.
    """
    items = frozenset(path.stem for path in sources)
    outputs: dict[str, list[Path]] = {}
    for path in _files(folder):
        if path in sources or (coordinates and path.name.endswith(coordinates)):
            continue
        if item := _item_of(path, items):
            outputs.setdefault(item, []).append(path)
    removed = []
    for paths in outputs.values():
        if not all(_whole(path) for path in paths):
            for path in paths:
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return tuple(removed)


def _same_as_before(command: Command, folder: Path) -> bool:
    """Whether the last attempt on these items was of this command; remembers it for the next."""
    key = f"{command.value('--i')} {command.name.removesuffix('_mpi')}".replace("/", "_")
    marks = folder / lineage.FOLDER
    mark = marks / f"items_{key.replace(' ', '_')[-120:]}.json"
    now = fingerprint(Command((), command.program, _without_skip(command)))
    try:
        before = mark.read_text()
    except OSError:
        before = ""
    marks.mkdir(parents=True, exist_ok=True)
    lineage.write_json(mark, {"fingerprint": now})
    return f'"{now}"' in before


def _without_skip(command: Command) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(item for item in command.options if item[0] != _SKIP)


def _item_of(path: Path, items: frozenset[str]) -> str:
    """The item that this file belongs to: the longest of whose name its own is an extension."""
    stem = path.name
    while stem:
        if stem in items:
            return stem
        stem = stem[: max(stem.rfind("."), stem.rfind("_"), 0)]
    return ""


def _whole(path: Path) -> bool:
    if path.suffix == ".star":
        return star.ends_whole(path)
    if path.suffix not in _MAPS:
        return True
    try:
        mrc.require_whole(path)
    except Torn:
        return False
    return True


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        found = sorted(folder.rglob("*"))
        yield from (path for path in found if path.is_file() and not path.is_symlink())
