"""A real NFS server on one place, and mounts of it on others.

with switch() as hosts:
    server, a, b = hosts.place(), hosts.place(), hosts.place()
    with NfsExport(server, folder, work_dir) as export:
        with export.mount_in(a, "/shared"), export.mount_in(b, "/shared"): ...

The server is nfs-ganesha with an rpcbind of its own, both in the namespaces of their place. A mount
is `client.py` in the namespaces of any process, found by its pid: a host of the cloud in a box does
as well as one of `places`, if the server's address can be reached from it.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ctypes import CDLL
from pathlib import Path
from types import TracebackType

from tests.nfs import libnfs, places
from tests.nfs.places import Place

CLIENT = Path(__file__).with_name("client.py")
PLUGINS = Path("/usr/lib/x86_64-linux-gnu/ganesha")
NAME = "/export"
"""What the export is called at the server, see `Pseudo`."""
START_S = 20.0

_CONFIG = """
NFS_CORE_PARAM {{
  Protocols = 3; Bind_addr = {address}; NFS_Port = 2049; MNT_Port = 20048;
  Enable_NLM = false; Enable_UDP = None; Enable_RQUOTA = false; Plugins_Dir = "{plugins}";
}}
{exports}
LOG {{ Default_Log_Level = EVENT; }}
"""
_EXPORT = """
EXPORT {{
  Export_Id = {number}; Path = "{folder}"; Pseudo = {name}{number}; Filesystem_Id = 21.{number};
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
  FSAL {{ Name = VFS; }}
}}
"""


def missing() -> str:
    """Which piece is absent here; empty: none."""
    if reason := places.missing():
        return reason
    absent = [name for name in ("ganesha.nfsd", "rpcbind") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if not (PLUGINS / "libfsalvfs.so").exists():
        return "nfs-ganesha-vfs is not installed"
    if not Path("/dev/fuse").exists():
        return "the kernel has no FUSE"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed"
    try:
        CDLL(libnfs.LIBRARY)
    except OSError:
        return f"{libnfs.LIBRARY} is not installed"
    return ""


class NfsExport:
    """`folder`, on a real disk as `place` sees it (overlays have no handles), for all to mount."""

    def __init__(self, place: Place, folder: Path, work_dir: Path) -> None:
        self._place = place
        self._folder = folder
        self._work_dir = work_dir
        self._twin = work_dir / "twin"
        self._number = 2
        self._rpcbind: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def source(self) -> str:
        """As a mount shows it: server:/path."""
        return f"{self._place.address}:{self._folder}"

    @property
    def twin(self) -> str:
        """The same folder as another export of the server."""
        return f"{self._place.address}:{self._twin}"

    @property
    def log(self) -> Path:
        return self._work_dir / "ganesha.log"

    def __enter__(self) -> "NfsExport":
        self._work_dir.mkdir(parents=True, exist_ok=True)
        # The sockets and pid files of rpcbind have fixed names.
        self._place.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        self._twin.mkdir(exist_ok=True)
        self._place.run("mount", "--bind", str(self._folder), str(self._twin))
        self._rpcbind = self._place.start("rpcbind", "-f", "-w", out=self._work_dir / "rpcbind.out")
        until(lambda: self._registered("portmapper"), "rpcbind does not answer")
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        if self._rpcbind is not None:
            places.end(self._rpcbind)

    def start(self) -> None:
        """Serve; again after `kill`."""
        config = self._work_dir / "ganesha.conf"
        folders = {1: self._twin, self._number: self._folder}
        exports = [
            _EXPORT.format(number=number, folder=folder, name=NAME)
            for number, folder in folders.items()
        ]
        text = _CONFIG.format(
            address=self._place.address, exports="".join(exports), plugins=PLUGINS
        )
        config.write_text(text, encoding="utf-8")
        files = ("-f", str(config), "-L", str(self.log), "-p", str(self._work_dir / "pid"))
        self._server = self._place.start(
            "ganesha.nfsd", "-F", *files, out=self._work_dir / "ganesha.out"
        )
        until(self._serves, "the NFS server does not come up", self.log)

    def pause(self) -> None:
        """The server answers nobody, and keeps all it has."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a crash of the server: nothing is said to anybody."""
        if self._server is not None:
            places.end(self._server)

    def export_anew(self) -> None:
        """As after a server's move or a new /etc/exports: mounts of `source` are stale from now on.

        It can be mounted anew, and those of `twin` go on.
        """
        self.kill()
        self._number += 1
        self.start()

    @contextlib.contextmanager
    def mount_in(
        self, target: Place | int, path: str, *, cache_s: float = 3.0, source: str = ""
    ) -> Iterator[Path]:
        """`path` in the namespaces of `target`, a place or a pid; made there if it is missing.

        The server's address must be reachable from the target's network.
        """
        place = Place(target, "") if isinstance(target, int) else target
        place.run("mkdir", "-p", path)
        out = self._work_dir / f"client-{place.pid}-{path.strip('/').replace('/', '_')}.out"
        program = (sys.executable, str(CLIENT), source or self.source, path)
        words = ("env", f"PYTHONPATH={os.pathsep.join(sys.path)}", *program)
        client = place.start(*words, "--cache-s", str(cache_s), out=out)
        try:
            until(lambda: _mounted(place, path, client), f"{path} is not mounted", out)
            yield Path(path)
        finally:
            places.end(client)  # what waits for an answer gets ENOTCONN
            with contextlib.suppress(AssertionError):
                place.run("umount", "--lazy", path)

    def _signal(self, number: int) -> None:
        assert self._server is not None
        self._server.send_signal(number)

    def _serves(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self.log.read_text()[-2000:]
        return self._registered("mountd") and self._registered("nfs")

    def _registered(self, service: str) -> bool:
        argv = self._place.argv("rpcinfo", "-p", self._place.address)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return any(line.split()[-1] == service for line in done.stdout.splitlines()[1:])


def _mounted(place: Place, path: str, client: "subprocess.Popen[bytes]") -> bool:
    assert client.poll() is None, f"the NFS client ended with {client.returncode}"
    found = subprocess.run(
        place.argv("stat", "--file-system", "--format=%T", path),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return found.stdout.strip().startswith("fuse")


def until(
    done: Callable[[], object], else_: str, log: Path | None = None, *, timeout_s: float = START_S
) -> None:
    """Wait until `done`; an AssertionError with the end of `log` when it takes too long."""
    end = time.monotonic() + timeout_s
    while not done():
        said = log.read_text()[-2000:] if log is not None and log.exists() else ""
        assert time.monotonic() < end, f"{else_} {said}"
        time.sleep(0.05)
