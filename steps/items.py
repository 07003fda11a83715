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
    items = input_items(command, project=project)
    if option is None or not command.value(option) or not items:
        return command
    folder = project / command.value(option)
    if not _same_as_before(command, folder):
        return command
    removed = remove_torn(folder, items)
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


def input_items(command: Command, *, project: Path) -> frozenset[str]:
    """Names, without folder and extension, of the movies or micrographs of `--i`."""
    source = command.value("--i")
    if not source.endswith(".star"):
        return frozenset()
    try:
        return frozenset(
            Path(next(name for name in names if name != "?")).stem
            for table in _ITEM_TABLES
            for names in star.rows(project / source, table, *_ITEM_LABELS)
            if any(name != "?" for name in names)
        )
    except Torn:
        return frozenset()


def remove_torn(folder: Path, items: frozenset[str]) -> tuple[str, ...]:
    """Remove every output of the items of which one output is not whole; their names."""
    outputs: dict[str, list[Path]] = {}
    for path in _files(folder):
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
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())
