"""A real Keystone and a real Nova with Nova's own fake driver, in processes of their own.

They need 170 packages that do not go together with ours, so they have an environment of their own,
made when first asked for and kept in `.tools`. Glance and Neutron stay stand-ins.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.openstack.cloud import Cloud, serving
from tests.openstack.front import Elsewhere, Front

HERE = Path(__file__).parent / "real"
REQUIREMENTS = HERE / "requirements.txt"
TOOLS = Path(__file__).parents[2] / ".tools"
SCRIPTS = {"identity": "keystone_server.py", "compute": "nova_server.py"}
Process = subprocess.Popen[str]
_INSTALL_S = 600
_LIVE_S = 900.0
"""Longest life of the processes, whatever the tests do."""


@contextmanager
def real(directory: Path) -> Iterator[Cloud]:
    """Skips where it cannot be installed or started."""
    python = installed()
    front = Front()
    with ExitStack() as stack:
        starting = {
            service: stack.enter_context(_process(python, script, directory / service, front.port))
            for service, script in SCRIPTS.items()
        }
        for service, process in starting.items():
            front.services[service] = Elsewhere(_port(process, directory / service))
        yield stack.enter_context(serving(front, directory, real=True))


def installed() -> Path:
    """The Python that has them, installed if need be."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = TOOLS / f"openstack-{sys.version_info[0]}{sys.version_info[1]}-{digest}"
    python, done = home / "bin" / "python", home / "installed"
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "openstack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return python
        shutil.rmtree(home, ignore_errors=True)
        try:
            _install(home, python)
        except (OSError, subprocess.SubprocessError) as exc:
            pytest.skip(f"Nova and Keystone cannot be installed here: {exc}")
        done.touch()
    return python


def _install(home: Path, python: Path) -> None:
    uv = next((found for found in (TOOLS / "bin/uv", shutil.which("uv")) if _runs(found)), None)
    venv.create(home, with_pip=uv is None)
    pip = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    if uv is None:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv = [*pip, "--no-deps", "-r", str(REQUIREMENTS)]
    subprocess.run(argv, check=True, timeout=_INSTALL_S, stdin=subprocess.DEVNULL)


def _runs(program: Path | str | None) -> bool:
    return program is not None and Path(program).is_file()


@contextmanager
def _process(python: Path, script: str, home: Path, port: int) -> Iterator[Process]:
    """Ended when left."""
    home.mkdir()
    argv = [str(python), "-W", "ignore", str(HERE / script), str(home), str(port)]
    with (home / "errors.log").open("w") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    timer = threading.Timer(_LIVE_S, process.kill)
    timer.start()
    try:
        with process:
            yield process
            process.kill()
    finally:
        timer.cancel()
        process.kill()


def _port(process: Process, home: Path) -> int:
    """What it says it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        said = (home / "errors.log").read_text(errors="replace")[-2000:]
        pytest.fail(f"the real {home.name} did not start: {said}")
    return int(json.loads(line)["port"])
