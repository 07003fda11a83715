"""The real broker over a world outside, to be killed: `scsched.scheduler.daemon.run`.

Two ways to start it. As a program of its own, which costs seconds of imports; or forked off a
nursery that has imported everything and opened nothing, so that many kills fit into a minute.
"""

import argparse
import importlib
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scsched.scheduler import daemon, drivers
from scsched.scheduler.config import RetryConfig, ScipionConfig, Settings, TimesConfig
from scsched.steps.errors import StoreBusy
from tests.faults.kill import mutants, worlds
from tests.faults.kill.journal import Journal, Kind
from tests.faults.kill.worlds import World

RETRY = RetryConfig(max_failures=5, max_infrastructure_ends=1000, backoff_s=0.1, max_backoff_s=0.5)
MAX_DRIVER_BACKOFF_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything that a broker needs to know."""

    folder: Path
    """Of the world outside."""
    state_dir: Path
    kind: str = "outside"
    """Of the world, see `worlds`."""
    database: str = ""
    """Empty: SQLite in the state directory."""
    mutant: str = ""

    @property
    def world(self) -> World:
        return worlds.find(self.kind, self.folder)

    @property
    def journal(self) -> Journal:
        return Journal.of(self.folder)

    @property
    def settings(self) -> Settings:
        fixed: dict[str, object] = {
            "state_dir": self.state_dir,
            "database": self.database,
            "retry": RETRY,
            "scipion": ScipionConfig(python=Path(sys.executable)),
            "times": TimesConfig(tick_s=0.1, stop_grace_s=0.0),
        }
        return Settings.model_validate({**fixed, **self.world.settings})

    @property
    def arguments(self) -> list[str]:
        return [
            "--outside", str(self.folder),
            "--state-dir", str(self.state_dir),
            "--world", self.kind,
            "--database", self.database,
            "--mutant", self.mutant,
        ]  # fmt: skip


def serve(site: Site) -> int:
    """Be the broker until a signal."""
    site.world.preload()
    mutants.apply(site.mutant)
    drivers.MAX_BACKOFF_S = MAX_DRIVER_BACKOFF_S
    try:
        daemon.run(site.settings, site.world.outside)
    except StoreBusy as exc:
        site.journal.write(Kind.BUSY, word=str(exc))
        return exc.exit_code
    return 0


def nurse(site: Site) -> int:
    """Fork a broker for every byte on stdin and say its pid; at the end of stdin, kill the last."""
    for late in ("pydantic.v1", "psycopg"):  # what only comes with the first route and engine
        importlib.import_module(late)
    site.world.preload()
    pid = 0
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.2)
        _reap()
        if not readable:
            continue
        if not os.read(sys.stdin.fileno(), 1):
            if pid and Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
            return 0
        pid = os.fork()
        if pid == 0:
            os.closerange(0, 2)
            os.open(os.devnull, os.O_RDWR)
            os.dup(0)
            os._exit(_guarded(site))
        os.write(1, f"{pid}\n".encode())


def _guarded(site: Site) -> int:
    try:
        return serve(site)
    except Exception:
        logging.exception("the broker ended by itself")
        return 1


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--outside", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--database", default="")
    parser.add_argument("--world", default="outside")
    parser.add_argument("--mutant", choices=list(mutants.MUTANTS), default="")
    parser.add_argument("--nursery", action="store_true")
    args = parser.parse_args(argv)
    site = Site(
        folder=args.outside,
        state_dir=args.state_dir,
        kind=args.world,
        database=args.database,
        mutant=args.mutant,
    )
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )
    return nurse(site) if args.nursery else serve(site)


if __name__ == "__main__":
    raise SystemExit(main())
