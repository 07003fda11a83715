"""Brokers with one guard taken out: what the harness has to catch.

launch-first   calls the provider before the intent is committed: the nodes of such a launch are
               known to nobody after a kill
no-tokens      (ec2) each launch call has a token of its own: one that is repeated, as its
               answer was lost, launches once more
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scsched.cluster.provider import Join, LaunchRequest, Owner
from scsched.db.runs import NewRun
from scsched.scheduler.dispatch import Dispatch


def apply(name: str) -> None:
    """To this process."""
    MUTANTS[name]()


def _none() -> None:
    pass


def _launch_first() -> None:
    honest = Dispatch._open

    def launch_and_open(self: Dispatch, new: Sequence[NewRun], now: object) -> int:
        for run in new:
            pool = self._fleet.pool(run.pool)
            assert pool is not None
            self._fleet.launch([
                LaunchRequest(token=node.token, name="", pool=pool,
                              deployment=self._store.deployment(),
                              owner=Owner(uid=0, gid=0, username=""),
                              join=Join(scheduler_address="", tls_dir=Path("/"),
                                        work_dir=Path("/")))
                for node in run.new_nodes
            ])  # fmt: skip
        return honest(self, new, now)  # type: ignore[arg-type]

    Dispatch._open = launch_and_open  # type: ignore[method-assign]


def _no_tokens() -> None:
    # It takes seconds to import, and only a broker of that world has it.
    from scsched.cluster.ec2 import workers
    from scsched.cluster.ec2.request import Launch, arguments

    def without_token(launch: Launch) -> Mapping[str, object]:
        return {**arguments(launch), "ClientToken": secrets.token_hex(8)}

    workers.arguments = without_token  # type: ignore[attr-defined, assignment]


MUTANTS: Mapping[str, Callable[[], None]] = {
    "": _none,
    "launch-first": _launch_first,
    "no-tokens": _no_tokens,
}
