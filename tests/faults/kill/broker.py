"""The real broker over the world outside, to be killed: `scsched.scheduler.daemon.run`.

Two ways to start it. As a program of its own, which costs a second of imports; or forked off a
nursery that has imported everything and opened nothing, so that many kills fit into a minute.

The mutant `launch-first` calls the provider before the intent is committed. It is what the
harness has to catch: the nodes of such a launch are known to nobody after a kill.
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
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from scsched.cluster.pools import Market
from scsched.cluster.provider import Join, LaunchRequest, Owner
from scsched.db.runs import NewRun
from scsched.scheduler import daemon, presence
from scsched.scheduler.config import RetryConfig, Settings, TimesConfig
from scsched.scheduler.config_pools import PoolConfig
from scsched.scheduler.dispatch import Dispatch
from scsched.scheduler.wiring import Outside
from scsched.steps.errors import StoreBusy
from tests.faults.kill import null_driver
from tests.faults.kill.journal import Kind
from tests.faults.kill.outside import LATEST_LISTING_S, OutsideProvider, World

POOLS = (
    PoolConfig(name="dear", max_nodes=4, cores=2, memory_gib=64.0, usd_per_hour=Decimal("1.0"),
               warm_s=1.0, boot_s=10.0),
    PoolConfig(name="spot", market=Market.SPOT, max_nodes=4, cores=2, memory_gib=64.0,
               usd_per_hour=Decimal("0.3"), warm_s=1.0, boot_s=10.0),
    PoolConfig(name="service", service=True, max_nodes=3, cores=1, memory_gib=2.0, warm_s=1.0,
               boot_s=10.0),
)  # fmt: skip
RETRY = RetryConfig(max_failures=5, max_infrastructure_ends=1000, backoff_s=0.1, max_backoff_s=0.5)
GRACE = timedelta(seconds=3 * LATEST_LISTING_S)
"""Shorter than a cloud's, as this one lists a node within a second."""


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that a broker needs to know."""

    folder: Path
    """Of the world outside."""
    state_dir: Path
    database: str
    """Empty: SQLite in the state directory."""
    mutant: str = ""

    @property
    def settings(self) -> Settings:
        return Settings(
            state_dir=self.state_dir,
            database=self.database,
            pool=POOLS,
            retry=RETRY,
            times=TimesConfig(tick_s=0.1, stop_grace_s=0.0),
        )

    @property
    def arguments(self) -> list[str]:
        return [
            "--outside", str(self.folder),
            "--state-dir", str(self.state_dir),
            "--database", self.database,
            "--mutant", self.mutant,
        ]  # fmt: skip


def serve(site: Site) -> int:
    """Be the broker until a signal."""
    world, settings = World(site.folder), site.settings
    presence.MISSING_GRACE = GRACE
    provider = OutsideProvider(world)
    if site.mutant == "launch-first":
        _launch_first(provider)
    outside = Outside(
        providers={"local": provider},
        reclaims=provider,
        driver_program=null_driver.program(site.folder),
    )
    try:
        daemon.run(settings, outside)
    except StoreBusy as exc:
        world.journal.write(Kind.BUSY, word=str(exc))
        return exc.exit_code
    return 0


def _launch_first(provider: OutsideProvider) -> None:
    honest = Dispatch._open

    def launch_and_open(self: Dispatch, new: Sequence[NewRun], now: datetime) -> int:
        deployment = self._store.deployment()
        for run in new:
            pool = self._fleet.pool(run.pool)
            assert pool is not None
            provider.launch([
                LaunchRequest(token=node.token, name="", pool=pool, deployment=deployment,
                              owner=Owner(uid=0, gid=0, username=""),
                              join=Join(scheduler_address="", tls_dir=Path("/"),
                                        work_dir=Path("/")))
                for node in run.new_nodes
            ])  # fmt: skip
        return honest(self, new, now)

    Dispatch._open = launch_and_open  # type: ignore[method-assign]


def nurse(site: Site) -> int:
    """Fork a broker for every byte on stdin and say its pid; at the end of stdin, kill the last."""
    for late in ("pydantic.v1", "psycopg"):  # what only comes with the first route and engine
        importlib.import_module(late)
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
    parser.add_argument("--mutant", choices=["", "launch-first"], default="")
    parser.add_argument("--nursery", action="store_true")
    args = parser.parse_args(argv)
    site = Site(args.outside, args.state_dir, args.database, args.mutant)
    logging.basicConfig(
        level="INFO", format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )
    return nurse(site) if args.nursery else serve(site)


if __name__ == "__main__":
    raise SystemExit(main())
