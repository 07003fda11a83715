"""Is this machine fit to run workflows? Each check says what it found and, where it fails, the fix.

Checks look and try, and leave nothing behind. None of them needs a broker.
"""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PROBE_TIMEOUT_S = 120.0
"""Scipion imports every plugin; a cold disk takes long over that."""
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
RELION_PROGRAMS = (
    "relion_refine",
    "relion_refine_mpi",
    "relion_preprocess",
    "relion_postprocess",
    "relion_mask_create",
    "relion_run_motioncorr",
)
SCIPION_PROBE = """
import json, os, tempfile
os.environ["SCIPION_DOMAIN"] = "pwem"
with tempfile.TemporaryDirectory() as home:
    os.environ["SCIPION_HOME"] = os.environ["SCIPION_USER_DATA"] = home
    import pyworkflow, pwem
    found = {"pyworkflow": pyworkflow.__version__, "pwem": pwem.__version__}
    found["protocols"] = len(pyworkflow.Config.getDomain().getProtocols())
    try:
        import relion
        found["relion plugin"] = relion.__version__
    except ImportError:
        pass
print("\\n" + json.dumps(found))
"""


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    """Works, or may work; a person should know."""
    FAIL = "fail"
    """Workflows will not run."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    """One line: what to type or change; empty if all is well."""


def examine(
    *,
    scipion_python: Path | None,
    relion_bin: Path,
    state_dir: Path,
    project_dir: Path,
    mpirun: str = "mpirun",
) -> tuple[Check, ...]:
    """All checks, in the order in which to fix them."""
    return (
        own_python(),
        scipion(scipion_python),
        tkinter(scipion_python),
        relion(relion_bin),
        mpi(mpirun),
        local_state(state_dir),
        database(state_dir),
        storage(project_dir),
        space("project space", project_dir),
        space("state space", state_dir),
    )


def worst(checks: Iterable[Check]) -> Verdict:
    """The verdict over all of them."""
    found = {check.verdict for check in checks}
    return next((v for v in (Verdict.FAIL, Verdict.WARN) if v in found), Verdict.OK)


# ---- programs ---------------------------------------------------------------------------------


def own_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    name = "python"
    detail = f"{version[0]}.{version[1]} at {sys.executable}"
    if (3, 11) <= version < (3, 14):
        return _ok(name, detail)
    return _fail(name, detail, "install scsched under Python 3.11, 3.12 or 3.13")


def scipion(python: Path | None) -> Check:
    """Scipion's Python imports pwem and the RELION plugin."""
    name = "scipion"
    fix = "scsched setup scipion, or set scipion.python in config.toml"
    if python is None:
        return _fail(name, "scipion.python is not set", fix)
    done = _run([str(python), "-I", "-c", SCIPION_PROBE])
    if isinstance(done, str):
        return _fail(name, f"{python}: {done}", fix)
    if done.returncode:
        return _fail(name, f"{python}: {_last_line(done.stderr)}", fix)
    found = json.loads(_last_line(done.stdout))
    detail = ", ".join(f"{key} {value}" for key, value in found.items())
    if "relion plugin" not in found:
        return _fail(name, detail, f"{python} -m pip install scipion-em-relion")
    return _ok(name, f"{detail}; {python}")


def tkinter(python: Path | None) -> Check:
    """Without it pwem and most plugins do not import, even where no window is ever opened."""
    name = "tkinter"
    if python is None:
        return _fail(name, "scipion.python is not set", "scsched setup scipion")
    done = _run([str(python), "-I", "-c", "import tkinter; print(tkinter.TkVersion)"])
    if isinstance(done, str):
        return _fail(name, f"{python}: {done}", "scsched setup scipion")
    if done.returncode:
        return _fail(name, _last_line(done.stderr), "sudo apt-get install python3-tk")
    return _ok(name, f"Tk {done.stdout.strip()}")


def relion(folder: Path) -> Check:
    name = "relion"
    fix = "sudo apt-get install relion, or set relion.bin in config.toml"
    missing = [program for program in RELION_PROGRAMS if not (folder / program).exists()]
    if missing:
        return _fail(name, f"{folder} lacks {', '.join(missing)}", fix)
    done = _run([str(folder / "relion_refine"), "--version"])
    if isinstance(done, str):
        return _fail(name, f"{folder / 'relion_refine'}: {done}", fix)
    found = re.search(r"(\d+)\.(\d+)[\w.-]*", done.stdout + done.stderr)
    if found is None:
        return _warn(name, f"{folder}: its version cannot be read", fix)
    if (int(found[1]), int(found[2])) < (3, 1):
        return _fail(name, f"{found[0]} in {folder}", "install RELION 3.1 or newer")
    return _ok(name, f"{found[0]} in {folder}")


def mpi(program: str = "mpirun") -> Check:
    name = "mpirun"
    fix = "sudo apt-get install openmpi-bin"
    path = shutil.which(program)
    if path is None:
        return _fail(name, f"{program} is not on PATH", fix)
    done = _run([path, "--version"])
    if isinstance(done, str):
        return _fail(name, f"{path}: {done}", fix)
    first = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
    if "Open MPI" not in first and "OpenRTE" not in first:
        return _warn(name, f"{path}: {first}", "put Open MPI's mpirun first on PATH")
    return _ok(name, f"{first}; {path}")


# ---- storage ----------------------------------------------------------------------------------


def local_state(folder: Path, mounts: Path = Path("/proc/mounts")) -> Check:
    """The database's locks do not hold on network file systems."""
    name = "state dir"
    kind = filesystem(folder, mounts)
    if any(word in kind for word in NETWORK_FILESYSTEMS):
        return _fail(
            name,
            f"{folder} is on {kind}",
            "set state_dir in config.toml to a folder on a local disk",
        )
    return _ok(name, f"{folder} on {kind or 'an unknown file system'}")


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


def database(folder: Path) -> Check:
    """SQLite takes its locks and writes through to the disk here."""
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
        return _fail(name, f"{folder}: {exc}", f"make {folder} writable, or set state_dir")
    if mode != "wal":
        return _fail(name, f"{folder}: no write-ahead log here", "set state_dir to a local disk")
    return _ok(name, f"SQLite {sqlite3.sqlite_version} with a write-ahead log")


def storage(folder: Path) -> Check:
    """What a checkpoint relies on: fsync, replace by rename, hard links, exclusive creation."""
    name = "projects"
    try:
        with _scratch(folder) as place:
            missing = _lacking(place)
    except OSError as exc:
        return _fail(name, f"{folder}: {exc.strerror}", f"make {folder} writable for you")
    if missing:
        return _fail(name, f"{folder}: {missing}", "keep projects on another file system")
    kind = filesystem(folder)
    return _ok(name, f"{folder} on {kind or 'an unknown file system'}")


def space(name: str, folder: Path) -> Check:
    try:
        free_gib = shutil.disk_usage(_nearest(folder)).free / GIB
    except OSError as exc:
        return _fail(name, f"{folder}: {exc.strerror}", f"make {folder} readable")
    detail = f"{free_gib:.1f} GiB free at {folder}"
    if free_gib < NO_SPACE_GIB:
        return _fail(name, detail, f"free space at {folder}")
    if free_gib < LOW_SPACE_GIB:
        return _warn(name, detail, f"free space at {folder}: movies need tens of GiB")
    return _ok(name, detail)


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
    """`folder`, or the first of its parents that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str] | str:
    """The finished process, or why there is none."""
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        return exc.strerror or str(exc)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_TIMEOUT_S:.0f} s"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, detail=detail)


def _warn(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, verdict=Verdict.WARN, detail=detail, fix=fix)


def _fail(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, verdict=Verdict.FAIL, detail=detail, fix=fix)
