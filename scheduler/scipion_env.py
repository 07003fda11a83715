"""The environment in which Scipion runs a protocol for us: variables, a hosts file, RELION's place.

Scipion is not patched. Its own seams lead to us: PARALLEL_COMMAND in the hosts file puts our mpirun
over the gang, RELION_PREPEND(_CPU) our launcher in front of RELION.
https://scipion-em.github.io/docs/release-3.0.0/docs/scipion-modes/host-configuration.html
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from scsched.steps.errors import ConfigError

VERSION_TIMEOUT_S = 30.0
FALLBACK_VERSION = "3.1"

NEUTRAL = {
    "SCIPION_DOMAIN": "pwem",
    "SCIPION_NOTIFY": "False",
    "SCIPION_SCRATCH": "",  # a link to the disk of a node that may be gone at the next attempt
    "SCIPION_USE_QUEUE": "False",
    "MPLBACKEND": "Agg",
    "RELION_SHELL": "sh",  # RELION's default is csh, which few machines have
    "PYTHONPATH": "",
    "PYTHONHOME": "",
}


def prepare(folder: Path, *, scipion_python: Path, relion_bin: Path) -> dict[str, str]:
    """The variables to add to a process of Scipion; what they point to is made in `folder`.

    A repeat with the same arguments leaves the same files; running protocols may go on meanwhile.

    :raises ConfigError: `folder` has a name that Scipion cannot use.
    """
    folder = folder.absolute()
    _check(folder)
    home = folder / f"relion-{relion_version(relion_bin)}"
    _link_programs(relion_bin, home)
    _replace(folder / "hosts.conf", hosts_conf(mpirun_command(Path(sys.executable))))
    launcher = launcher_command(Path(sys.executable))
    return {
        **NEUTRAL,
        "SCIPION_HOME": str(folder),
        "SCIPION_HOSTS": str(folder / "hosts.conf"),
        "SCIPION_PYTHON": shlex.quote(str(scipion_python)),
        "RELION_HOME": str(home),
        "RELION_PREPEND": launcher,
        "RELION_PREPEND_CPU": launcher,
        "MPI_BINDIR": str(_mpi_bin()),
        "MPI_LIBDIR": str(_mpi_lib()),
        "PATH": _path_with(relion_bin),
    }


def launcher_command(python: Path) -> str:
    """What a shell line needs before a RELION command."""
    return shlex.join([str(python), "-I", "-m", "scsched.cluster.launcher"])


def mpirun_command(python: Path) -> str:
    """PARALLEL_COMMAND: a shell line that Scipion %-formats once it has turned `%_(` into `%(`."""
    ours = shlex.join([str(python), "-I", "-m", "scsched.cluster.mpirun"]).replace("%", "%%")
    # A quoted path may itself hold `%_(`; an empty string between keeps Scipion from seeing it.
    return ours.replace("%_(", "%''_(") + " -np %_(JOB_NODES)d %_(COMMAND)s"


def hosts_conf(parallel_command: str) -> str:
    return f"[localhost]\nPARALLEL_COMMAND = {parallel_command}\n"


def relion_version(relion_bin: Path) -> str:
    """`3.1` and the like: Scipion's plugin reads it from the name of RELION's folder."""
    try:
        done = subprocess.run(
            [str(relion_bin / "relion_refine"), "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return FALLBACK_VERSION
    found = re.search(r"version:?\s*(\d+\.\d+)", done.stdout + done.stderr)
    return found[1] if found else FALLBACK_VERSION


def _link_programs(relion_bin: Path, home: Path) -> None:
    """Fill `home`/bin with links to RELION's programs.

    Scipion writes the program's whole path into a shell line without quotes. In a folder whose name
    would not survive that there are no links, and the programs are found on PATH.
    """
    links = home / "bin"
    links.mkdir(parents=True, exist_ok=True)
    if shlex.quote(str(links)) != str(links):
        return
    for program in sorted(relion_bin.glob("relion_*")):
        link = links / program.name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(program)


def _check(folder: Path) -> None:
    """Scipion expands `$NAME` in its paths, and its hosts file has one value a line."""
    if re.search(r"[$\x00-\x1f]", str(folder)):
        raise ConfigError(f"{str(folder)!r}: Scipion cannot use a folder with $ or a line break")


def _path_with(relion_bin: Path) -> str:
    path = os.environ.get("PATH", os.defpath)
    there = str(relion_bin) in path.split(os.pathsep)
    return path if there else os.pathsep.join([str(relion_bin), path])


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def _mpi_bin() -> Path:
    found = shutil.which("mpirun")
    return Path(found).parent if found else Path("/usr/bin")


def _mpi_lib() -> Path:
    return Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
