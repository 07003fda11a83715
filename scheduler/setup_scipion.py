"""`scsched setup scipion [DIR]`: Scipion in an environment of its own, from packages, by hash.

    DIR/venv           the environment; its Python is what `scipion.python` in the config means
    DIR/venv/.scsched  written last: the digest of the lock file that was installed

A repeat does nothing where that digest is right, and goes on where an earlier one was interrupted.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scsched.steps.errors import ScschedError

LOCK = Path(__file__).with_name("scipion-requirements.lock")
SUPPORTED = ("3.11",)
"""Scipion pins numpy 1.26.1 and scipy 1.10.0; the lock file was resolved for these."""
VENV_TIMEOUT_S = 300.0
INSTALL_TIMEOUT_S = 3600.0
CHECK_TIMEOUT_S = 180.0
PROBE = "import sys, tkinter, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"

Say = Callable[[str], None]


class SetupError(ScschedError):
    """Scipion could not be installed; `hint` is what to do."""

    code = "setup"


def install(folder: Path, *, python: Path | None = None, say: Say = print) -> Path:
    """Python of the environment in `folder`, made if it is not there yet.

    :raises SetupError: no fitting Python on this machine, or pip failed.
    """
    venv = folder.absolute() / "venv"
    theirs = venv / "bin" / "python"
    mark = venv / ".scsched"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if theirs.exists() and mark.exists() and mark.read_text().strip() == wanted:
        say(f"Scipion is installed in {venv}")
        return theirs
    base = python or find_python()
    mark.unlink(missing_ok=True)
    if not _works(theirs):
        say(f"making an environment in {venv} with {base}")
        if venv.exists():
            shutil.rmtree(venv)
        folder.mkdir(parents=True, exist_ok=True)
        _run([str(base), "-m", "venv", str(venv)], VENV_TIMEOUT_S)
    say("installing Scipion's packages, about 700 MB on disk")
    _run([*_pip(theirs), "--require-hashes", "-r", str(LOCK)], INSTALL_TIMEOUT_S)
    say("checking that Scipion imports")
    _run([str(theirs), "-I", "-c", "import pyworkflow, pwem, relion"], CHECK_TIMEOUT_S)
    mark.write_text(f"{wanted}\n")
    say(f"Scipion is installed in {venv}")
    return theirs


def find_python() -> Path:
    """A Python of a version that Scipion's pins allow, with tkinter and venv.

    :raises SetupError: there is none.
    """
    for version in SUPPORTED:
        # The system's own first: a Python built from source often lacks tkinter.
        for found in (f"/usr/bin/python{version}", shutil.which(f"python{version}")):
            if found and _probe(found) == version:
                return Path(found)
    names = " or ".join(f"python{version}" for version in SUPPORTED)
    raise SetupError(
        f"no {names} with tkinter and venv on this machine",
        hint="sudo apt-get install python3.11 python3.11-venv python3-tk",
    )


def _probe(python: str) -> str:
    try:
        done = subprocess.run(
            [python, "-I", "-c", PROBE],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _works(python: Path) -> bool:
    return python.exists() and _probe(str(python)) in SUPPORTED


def _pip(python: Path) -> list[str]:
    quiet = ("--no-input", "--disable-pip-version-check", "--quiet")
    return [str(python), "-I", "-m", "pip", "install", *quiet]


def _run(argv: Sequence[str], timeout_s: float) -> None:
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except OSError as exc:
        raise SetupError(f"{argv[0]}: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise SetupError(f"{argv[0]} took over {timeout_s:.0f} s", hint="run it again") from exc
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise SetupError(f"{' '.join(argv[:5])} ended with {done.returncode}:\n{last}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".scipion"))
    parser.add_argument("--python", type=Path, help="make the environment with this Python")
    given = parser.parse_args(arguments)
    try:
        python = install(given.folder, python=given.python)
    except SetupError as exc:
        print(f"scsched: {exc}", file=sys.stderr)
        if exc.hint:
            print(f"fix: {exc.hint}", file=sys.stderr)
        return exc.exit_code
    print(python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
