"""Put the iterations of a finished lineage under the names that the workflow expects.

Scipion looks for `<base>_itNNN_*` and registers the highest N it finds. What attempts left there
beyond the living line must therefore go, also what others made of it: Scipion keeps a converted
copy of an iteration beside it and would trust it.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from scsched.steps import files, mrc
from scsched.steps.checkpoint import Branch

_ITERATION = re.compile(r"it(\d{3,})_.+")
_FINAL = re.compile(
    r"((half[12]_)?class\d{3}.*|unmasked_classes\.mrcs|(half[12]_)?model\.star|data\.star"
    r"|sampling\.star|optimiser\.star|half[12]_body\d{3}.*|body\d{3}.*)"
)
_PRIVATE = re.compile(r"[ax]\d+_.+")
_NAMES_MAPS = re.compile(r".*(model|optimiser)\.star")


def publish(base: str, branches: Sequence[Branch], *, project: Path) -> tuple[str, ...]:
    """Link what `branches` (newest first) hold under `base`; the names that were linked.

    May be repeated after a crash: nothing under another root is changed or removed.
    """
    drop_stale(base, branches, project=project)
    linked: list[str] = []
    roots = [branch.root for branch in branches if branch.root != base]
    for branch in reversed(branches):
        if branch.root != base:
            for suffix in _wanted(branch, final=branch is branches[0], project=project):
                _link(branch.root, base, suffix, roots=roots, project=project)
                linked.append(f"{Path(base).name}_{suffix}")
    return tuple(linked)


def drop_stale(base: str, branches: Sequence[Branch], *, project: Path) -> None:
    """Remove what stands under `base` beyond the living line."""
    own = next((branch for branch in branches if branch.root == base), None)
    live = bool(branches) and branches[0].root == base
    for suffix in list(_suffixes(base, project=project)):
        iteration = _iteration(suffix)
        if iteration is None:
            stale = not live and _FINAL.fullmatch(suffix) is not None
        else:
            stale = own is None or not own.holds(iteration)
        if stale:
            Path(f"{project / base}_{suffix}").unlink(missing_ok=True)


def set_aside(base: str, target: Path, *, project: Path) -> tuple[str, ...]:
    """Move every output of `base` and of its attempts to `target`; their names."""
    moved = []
    for suffix in list(_suffixes(base, project=project)):
        if _ours(suffix):
            target.mkdir(parents=True, exist_ok=True)
            source = Path(f"{project / base}_{suffix}")
            files.move(source, target / source.name)
            moved.append(source.name)
    return tuple(moved)


def leftovers(base: str, *, project: Path) -> bool:
    """Whether anything of relion_refine stands under `base` already."""
    return any(_ours(suffix) for suffix in _suffixes(base, project=project))


def remove_private(base: str, *, project: Path) -> None:
    """Remove what attempts wrote under roots of their own, once it stands under `base`."""
    for suffix in list(_suffixes(base, project=project)):
        if _PRIVATE.fullmatch(suffix):
            Path(f"{project / base}_{suffix}").unlink(missing_ok=True)


def remove_root(root: str, *, project: Path) -> None:
    """Remove all that was written under one attempt's own root."""
    for suffix in list(_suffixes(root, project=project)):
        Path(f"{project / root}_{suffix}").unlink(missing_ok=True)


def publish_iteration(private: str, base: str, iterations: Iterable[int], *, project: Path) -> None:
    """Move these iterations from `private` to `base`, equal byte for byte whoever wrote them.

    Each file comes by rename, each optimiser.star last: one that is there has the rest with it.
    """
    wanted = set(iterations)
    suffixes = [
        suffix
        for suffix in _suffixes(private, project=project)
        if _iteration(suffix) in wanted or _FINAL.fullmatch(suffix)
    ]
    for suffix in sorted(suffixes, key=_optimiser_last):
        source = Path(f"{project / private}_{suffix}")
        target = Path(f"{project / base}_{suffix}")
        if _NAMES_MAPS.fullmatch(suffix):
            text = _renamed(source.read_text(), [private], base)
            files.write_whole(target, partial(_write_text, text=text))
            continue
        if source.suffix in (".mrc", ".mrcs"):
            mrc.blank_labels(source)
        files.move(source, target)
    remove_root(private, project=project)


def _wanted(branch: Branch, *, final: bool, project: Path) -> list[str]:
    found = []
    for suffix in _suffixes(branch.root, project=project):
        iteration = _iteration(suffix)
        if iteration is not None and branch.holds(iteration):
            found.append(suffix)
        if iteration is None and final and _FINAL.fullmatch(suffix):
            found.append(suffix)
    return sorted(found, key=_optimiser_last)


def _optimiser_last(suffix: str) -> tuple[int, bool, str]:
    iteration = _iteration(suffix)
    return (-1 if iteration is None else iteration, suffix.endswith("optimiser.star"), suffix)


def _link(root: str, base: str, suffix: str, *, roots: list[str], project: Path) -> None:
    source = Path(f"{project / root}_{suffix}")
    target = Path(f"{project / base}_{suffix}")
    if _NAMES_MAPS.fullmatch(suffix):
        text = _renamed(source.read_text(), roots, base)
        files.write_whole(target, partial(_write_text, text=text))
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        files.write_whole(target, lambda part: shutil.copyfile(source, part))


def _write_text(path: Path, *, text: str) -> None:
    path.write_text(text)


def _renamed(text: str, roots: Iterable[str], base: str) -> str:
    """The text of a star file with the files of `roots` under their names of `base`."""
    for root in roots:
        text = re.sub(rf"(?<![\w/]){re.escape(root)}(?=[_\s])", lambda _: base, text)
    return text


def _iteration(suffix: str) -> int | None:
    match = _ITERATION.fullmatch(suffix)
    return int(match[1]) if match else None


def _ours(suffix: str) -> bool:
    return any(pattern.fullmatch(suffix) for pattern in (_ITERATION, _FINAL, _PRIVATE))


def _suffixes(root: str, *, project: Path) -> Iterator[str]:
    """What follows `<root>_` in the names of the files in its folder."""
    path = project / root
    start = f"{path.name}_"
    if path.parent.is_dir():
        for entry in sorted(path.parent.iterdir()):
            if entry.name.startswith(start) and entry.is_file():
                yield entry.name.removeprefix(start)
