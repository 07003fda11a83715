"""A throw-away Postgres cluster of Debian's binaries: own folder, Unix socket, gone at the end."""

import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import quote, urlsplit

TIMEOUT_S = 120


def binaries() -> Path | None:
    """Debian keeps them off PATH. None: Postgres is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def missing() -> str:
    """Why there can be no cluster here; empty: there can."""
    if binaries() is None:
        return "Postgres is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and not _has_user("postgres"):
        return "Postgres does not run as root, and there is no user postgres"
    return ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server. `folder` holds its data and its socket."""

    folder: Path
    bin: Path

    def database(self, template: str = "template0") -> str:
        """The URL of a new database: empty, or a copy of the one named or at the URL `template`."""
        name = f"d{next(_number)}"
        origin = urlsplit(template).path.removeprefix("/")
        self.run("createdb", "-h", str(self.folder), "-U", "postgres", "-T", origin, name)
        return f"postgresql://postgres@/{name}?host={quote(str(self.folder), safe='')}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}'"
        deadline = time.monotonic() + TIMEOUT_S
        while not self._try("pg_ctl", *self._data(), "start", "-w", "-o", options, *self._log()):
            # After a kill the orphans of the old server have to go first.
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start: {self._said()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """At once; one that is down already stays so."""
        self._try("pg_ctl", *self._data(), "stop", "-m", "immediate")

    def kill(self) -> None:
        """SIGKILL to the server: its clients' connections break."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def run(self, program: str, *arguments: str) -> None:
        """One of Postgres's programs. :raises RuntimeError: it failed."""
        if not self._try(program, *arguments):
            raise RuntimeError(f"{program} failed: {self._said()}")

    def _try(self, program: str, *arguments: str) -> bool:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # pg_ctl's server would keep a pipe open
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=TIMEOUT_S,
            check=False,
            user=_owner(),
            group=_owner(),
            extra_groups=None if _owner() is None else [],
        )
        return done.returncode == 0

    def _data(self) -> tuple[str, str]:
        return "-D", str(self.folder / "data")

    def _log(self) -> tuple[str, str]:
        return "-l", str(self.folder / "log")

    def _said(self) -> str:
        log = self.folder / "log"
        return log.read_text()[-2000:] if log.exists() else "no log"


@contextmanager
def cluster(*, durable: bool = False) -> Iterator[Cluster]:
    """A server for the length of the block. Not `durable`: it does not wait for the disk."""
    found = binaries()
    if found is None:
        raise RuntimeError(missing())
    with tempfile.TemporaryDirectory(prefix="pg-", dir=_place(durable)) as folder:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        server = Cluster(Path(folder), found)
        server.run("initdb", "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-N",
                    "-E", "UTF8", "--locale", "C.UTF-8")  # fmt: skip
        if not durable:
            with Path(folder, "data", "postgresql.conf").open("a") as settings:
                settings.write("fsync = off\n")
        server.start()
        try:
            yield server
        finally:
            server.stop()


_number = count()


def _place(durable: bool) -> str:
    """A short path, for the socket; in memory if nothing has to last: a database is 300 files."""
    return "/dev/shm" if Path("/dev/shm").is_dir() and not durable else "/tmp"


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _owner() -> str | None:
    """Postgres refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None
