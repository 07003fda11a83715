"""Is this machine fit to run workflows? Each check says what it found and, where it fails, the fix.

Checks look and try, and leave nothing behind. None of them needs a broker.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scsched.scheduler import state_folder
from scsched.scheduler.checks import Check as Check
from scsched.scheduler.checks import Verdict as Verdict
from scsched.scheduler.checks import fail, ok, warn
from scsched.scheduler.checks import worst as worst
from scsched.scheduler.doctor_storage import GIB as GIB
from scsched.scheduler.doctor_storage import database as database
from scsched.scheduler.doctor_storage import filesystem as filesystem
from scsched.scheduler.doctor_storage import local_state as local_state
from scsched.scheduler.doctor_storage import space as space
from scsched.scheduler.doctor_storage import storage as storage

PROBE_TIMEOUT_S = 120.0
"""Scipion imports every plugin; a cold disk takes long over that."""
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


def examine(
    *,
    scipion_python: Path | None,
    relion_bin: Path,
    state_dir: Path,
    database_url: str,
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
        *_state(state_dir, database_url),
        storage(project_dir),
        space("project space", project_dir),
        space("state space", state_dir),
    )


def _state(folder: Path, database_url: str) -> tuple[Check, ...]:
    """A user of somebody else's broker can look into neither, and need not."""
    if who := state_folder.somebody_else(folder):
        said = f"is for {who} to check, who runs the broker on {folder}"
        return ok("state dir", said), ok("database", said)
    return local_state(folder), database(database_url)


# ---- programs ---------------------------------------------------------------------------------


def own_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    name = "python"
    detail = f"{version[0]}.{version[1]} at {sys.executable}"
    if (3, 11) <= version < (3, 14):
        return ok(name, detail)
    return fail(name, detail, "install scsched under Python 3.11, 3.12 or 3.13")


def scipion(python: Path | None) -> Check:
    """Scipion's Python imports pwem and the RELION plugin."""
    name = "scipion"
    fix = "scsched setup scipion, or set scipion.python in config.toml"
    if python is None:
        return fail(name, "scipion.python is not set", fix)
    done = _run([str(python), "-I", "-c", SCIPION_PROBE])
    if isinstance(done, str):
        return fail(name, f"{python}: {done}", fix)
    if done.returncode:
        return fail(name, f"{python}: {_last_line(done.stderr)}", fix)
    found = json.loads(_last_line(done.stdout))
    detail = ", ".join(f"{key} {value}" for key, value in found.items())
    if "relion plugin" not in found:
        return fail(name, detail, f"{python} -m pip install scipion-em-relion")
    return ok(name, f"{detail}; {python}")


def tkinter(python: Path | None) -> Check:
    """Without it pwem and most plugins do not import, even where no window is ever opened."""
    name = "tkinter"
    if python is None:
        return fail(name, "scipion.python is not set", "scsched setup scipion")
    done = _run([str(python), "-I", "-c", "import tkinter; print(tkinter.TkVersion)"])
    if isinstance(done, str):
        return fail(name, f"{python}: {done}", "scsched setup scipion")
    if done.returncode:
        return fail(name, _last_line(done.stderr), "sudo apt-get install python3-tk")
    return ok(name, f"Tk {done.stdout.strip()}")


def relion(folder: Path) -> Check:
    name = "relion"
    fix = "sudo apt-get install relion, or set relion.bin in config.toml"
    missing = [program for program in RELION_PROGRAMS if not (folder / program).exists()]
    if missing:
        return fail(name, f"{folder} lacks {', '.join(missing)}", fix)
    done = _run([str(folder / "relion_refine"), "--version"])
    if isinstance(done, str):
        return fail(name, f"{folder / 'relion_refine'}: {done}", fix)
    found = re.search(r"(\d+)\.(\d+)[\w.-]*", done.stdout + done.stderr)
    if found is None:
        return warn(name, f"{folder}: its version cannot be read", fix)
    if (int(found[1]), int(found[2])) < (3, 1):
        return fail(name, f"{found[0]} in {folder}", "install RELION 3.1 or newer")
    return ok(name, f"{found[0]} in {folder}")


def mpi(program: str = "mpirun") -> Check:
    name = "mpirun"
    fix = "sudo apt-get install openmpi-bin"
    path = shutil.which(program)
    if path is None:
        return fail(name, f"{program} is not on PATH", fix)
    done = _run([path, "--version"])
    if isinstance(done, str):
        return fail(name, f"{path}: {done}", fix)
    first = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
    if "Open MPI" not in first and "OpenRTE" not in first:
        return warn(name, f"{path}: {first}", "put Open MPI's mpirun first on PATH")
    return ok(name, f"{first}; {path}")


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
