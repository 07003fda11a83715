"""The broker as a process: one instance, one database, one socket."""

import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import uvicorn

from scsched.db import migrate
from scsched.db.session import Store, open_store
from scsched.scheduler import config as configuration
from scsched.scheduler.api import make_app
from scsched.scheduler.config import Settings, without_password
from scsched.scheduler.peercred import PeerCredProtocol
from scsched.scheduler.ticker import Ticker
from scsched.scheduler.wiring import Outside, this_machine, wire
from scsched.steps.errors import ConfigError, StoreBusy, StoreLost

log = logging.getLogger("scsched.daemon")

LOCK_WAIT_S = 2.0


def serve(
    *, state_dir: Path | None = None, config: Path | None = None, foreground: bool = True
) -> int:
    """Run the broker until SIGTERM or SIGINT. Runs in progress go on; the next broker adopts them.

    :raises ConfigError: the configuration is wrong.
    :raises StoreBusy: another broker is running.
    :raises StoreError: the database is not usable.
    """
    if state_dir is not None:
        os.environ["SCSCHED_STATE_DIR"] = str(state_dir)
    settings = configuration.load(config)
    _make_dirs(settings.state_dir)
    _logging(None if foreground else settings.state_dir)
    run(settings)
    return 0


def run(settings: Settings, outside: Callable[[Settings, Store], Outside] = this_machine) -> None:
    """Serve until a signal says stop.

    :param outside: where nodes and drivers come from.
    :raises StoreLost: the lock on the database is gone: another broker may have it.
    """
    with ExitStack() as stack:
        stack.enter_context(_only_one(settings.state_dir))
        _clear(settings.socket)
        migrate.upgrade(settings.database_url)
        store = open_store(settings.database_url)
        stack.callback(store.close)
        lock = stack.enter_context(store.leader_lock())
        services = wire(settings, store, outside(settings, store))
        stack.callback(services.fleet.close)
        ticker = Ticker(
            services,
            settings.times.tick_s,
            check_leader=lock.check,
            on_deposed=lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
        app = make_app(settings, store, services, ticker)
        server = uvicorn.Server(_server_config(app, settings.socket))
        ticker.start()
        stack.callback(ticker.stop)
        _stop_on_signals(server)
        database = without_password(settings.database_url)
        log.info("serving at %s, database %s", settings.socket, database)
        server.run()
        if ticker.deposed:
            raise StoreLost("the broker's lock on the database is gone", hint="start it again")
    log.info("stopped; runs in progress go on and are taken up at the next start")


def _stop_on_signals(server: uvicorn.Server) -> None:
    """Also before uvicorn listens for them, and after: it raises them once more when it has
    stopped, and we still have to clean up."""

    def stop(*_: object) -> None:
        server.should_exit = True

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)


def _clear(path: Path) -> None:
    """Remove the socket of a broker that was killed.

    :raises StoreBusy: somebody answers there.
    :raises ConfigError: it is no socket.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError(f"{path}: is no socket", hint="move it away, or set SCSCHED_SOCKET")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        if probe.connect_ex(os.fsencode(path)) == 0:
            raise StoreBusy(f"another broker answers at {path}", hint="set SCSCHED_SOCKET")
    path.unlink(missing_ok=True)


def _server_config(app: object, path: Path) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        uds=str(path),
        http=PeerCredProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=3,
    )


def _make_dirs(state_dir: Path) -> None:
    """Closed to others, but passable where a broker of root serves other users; of the logs in it
    each is its owner's alone."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    state_dir.mkdir(parents=True, exist_ok=True)
    state_dir.chmod(mode)
    _close_logs(state_dir / "log")
    for name, inner in (("wf", mode), ("nodes", 0o755), ("log", mode)):
        (state_dir / name).mkdir(exist_ok=True)
        (state_dir / name).chmod(inner)


def _close_logs(folder: Path) -> None:
    """Those of earlier versions may be read by all who reach them."""
    for file in folder.glob("*.log"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode & 0o770)


def _only_one(state_dir: Path) -> IO[str]:
    """The lock of this state directory, for the life of the process.

    :raises StoreBusy: another broker has it.
    """
    handle = (state_dir / "broker.lock").open("a+", encoding="ascii")
    if not _locked(handle):
        handle.seek(0)
        pid = handle.read().strip()
        handle.close()
        raise StoreBusy(
            f"a broker (pid {pid}) already runs on {state_dir}", hint="stop it first: kill " + pid
        )
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle


def _locked(handle: IO[str]) -> bool:
    """A broker that was killed a moment ago may still be closing its files."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _logging(state_dir: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if state_dir is not None:
        path = state_dir / "log" / "broker.log"
        path.touch(mode=0o600)
        handler = logging.FileHandler(path)
    logging.basicConfig(
        level=os.environ.get("SCSCHED_LOG", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        handlers=[handler],
        force=True,
    )
