"""The state directory as a folder of somebody: made, found to be another user's, or refused."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scsched.steps.errors import ConfigError

_HINT = "let its owner run the broker, or name a folder of yours: SCSCHED_STATE_DIR or state_dir"


def make(folder: Path, mode: int | None = None) -> None:
    """Make it, for its owner alone, if it is not there.

    :param mode: it has this afterwards, also where it was there; None: as it was.
    :raises ConfigError: it cannot be made, is a file, or belongs to somebody else.
    """
    with ours(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if mode is not None:
            folder.chmod(mode)


@contextmanager
def ours(path: Path, hint: str = _HINT) -> Iterator[None]:
    """The block makes, changes or opens `path`.

    :raises ConfigError: this user cannot; says why, and `hint`.
    """
    try:
        yield
    except OSError as exc:
        raise ConfigError(f"{path}: {_why_not(path, exc)}", hint=hint) from exc


def somebody_else(path: Path) -> str:
    """Who has `path`, if that is not this user; empty: this user, root, or it is not there."""
    try:
        uid = path.stat().st_uid
    except OSError:
        return ""
    if os.geteuid() in (0, uid):
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _why_not(path: Path, exc: OSError) -> str:
    if isinstance(exc, FileExistsError | NotADirectoryError):
        return "is no folder, or lies in what is none"
    if who := somebody_else(path):
        return f"belongs to {who}"
    if who := somebody_else(path.parent):
        return f"{path.parent} belongs to {who}"
    return f"cannot be made or written: {exc.strerror or exc}"
