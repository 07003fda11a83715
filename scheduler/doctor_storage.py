"""Checks of doctor: the state directory with its database, and the folder of the projects."""

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scsched.db import engines, migrate
from scsched.scheduler.checks import Check, fail, ok, warn
from scsched.steps.errors import ScschedError

GIB = 2**30
LOW_SPACE_GIB = 10.0
NO_SPACE_GIB = 1.0
NETWORK_FILESYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "9p",
    "sshfs",
)


def local_state(folder: Path, mounts: Path = Path("/proc/mounts")) -> Check:
    """The database's locks do not hold on network file systems."""
    name = "state dir"
    kind = filesystem(folder, mounts)
    if any(word in kind for word in NETWORK_FILESYSTEMS):
        return fail(
            name,
            f"{folder} is on {kind}",
            "set state_dir in config.toml to a folder on a local disk",
        )
    return ok(name, f"{folder} on {kind or 'an unknown file system'}")


def filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that `folder` is, or will be, on; empty where unknown."""
    place = _nearest(folder).resolve()
    found, best = "", -1
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(" ")
            point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]))
            if place.is_relative_to(point) and len(point.parts) >= best:
                found, best = fields[2], len(point.parts)
    return found


def database(url: str) -> Check:
    """It answers, and its tables are of a version that this program can work with.

    :param url: of SQLite or of PostgreSQL.
    """
    name = "database"
    try:
        parsed = engines.parse(url)
        path = engines.sqlite_path(parsed) if engines.is_sqlite(parsed) else None
        if path is not None and (wrong := _unfit(path.parent)):
            return wrong
        if path is not None and not path.exists():
            return ok(name, f"SQLite {sqlite3.sqlite_version}; {path} is not there yet")
        found = migrate.look(url)
    except ScschedError as exc:
        return fail(
            name,
            str(exc).removeprefix("database: "),
            exc.hint or "correct database in the configuration",
        )
    return _tables(f"{'PostgreSQL' if path is None else 'SQLite'} {found.server}", found.tables)


def _tables(server: str, version: str | None) -> Check:
    wanted = migrate.head()
    if version is None:
        return ok("database", f"{server}; no tables yet, scsched serve makes them")
    detail = f"{server}; tables of version {version}"
    if version == wanted:
        return ok("database", detail)
    detail += f", this scsched has {wanted}"
    if version < wanted:  # they are numbered
        return warn("database", detail, "scsched db upgrade; scsched serve does it too")
    return fail("database", detail, "install the scsched that made them, or a newer one")


def _unfit(folder: Path) -> Check | None:
    """SQLite does not take its locks here, or write through to the disk."""
    name = "database"
    try:
        with _scratch(folder) as place:
            db = sqlite3.connect(place / "probe.db", timeout=5)
            with contextlib.closing(db):
                mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                db.execute("PRAGMA synchronous=FULL")
                db.execute("CREATE TABLE probe (x)")
                db.commit()
    except (OSError, sqlite3.Error) as exc:
        fix = f"set state_dir to a folder of yours, or run the broker as who may write {folder}"
        said = exc.strerror if isinstance(exc, OSError) else exc
        return fail(name, f"{folder}: {said}", fix)
    if mode != "wal":
        return fail(name, f"{folder}: no write-ahead log here", "set state_dir to a local disk")
    return None


def storage(folder: Path) -> Check:
    """What a checkpoint relies on: fsync, replace by rename, hard links, exclusive creation."""
    name = "projects"
    try:
        with _scratch(folder) as place:
            missing = _lacking(place)
    except OSError as exc:
        return fail(name, f"{folder}: {exc.strerror}", f"make {folder} writable for you")
    if missing:
        return fail(name, f"{folder}: {missing}", "keep projects on another file system")
    kind = filesystem(folder)
    return ok(name, f"{folder} on {kind or 'an unknown file system'}")


def space(name: str, folder: Path) -> Check:
    try:
        free_gib = shutil.disk_usage(_nearest(folder)).free / GIB
    except OSError as exc:
        return fail(name, f"{folder}: {exc.strerror}", f"make {folder} readable")
    detail = f"{free_gib:.1f} GiB free at {folder}"
    if free_gib < NO_SPACE_GIB:
        return fail(name, detail, f"free space at {folder}")
    if free_gib < LOW_SPACE_GIB:
        return warn(name, detail, f"free space at {folder}: movies need tens of GiB")
    return ok(name, detail)


def _lacking(place: Path) -> str:
    """What the file system does not do; empty: it does all of it."""
    first, second = place / "first", place / "second"
    for path, text in ((first, "old"), (second, "new")):
        with path.open("x", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    with contextlib.suppress(FileExistsError):
        first.open("x", encoding="ascii").close()
        return "a file that exists was created once more"
    second.replace(first)
    if first.read_text(encoding="ascii") != "new" or second.exists():
        return "renaming over a file did not replace it"
    try:
        os.link(first, place / "link")
    except OSError as exc:
        return f"no hard links ({exc.strerror})"
    return ""


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=_nearest(folder)) as place:
        yield Path(place)


def _nearest(folder: Path) -> Path:
    """`folder`, or the first of its parents that exists, as far as this user can see."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if os.access(path, os.F_OK))
