"""What happens to a cloud in a box while a campaign goes on: nothing there is to be relied on.

Calls are refused, throttled, slow, or answered into the void; listings are late, partial and empty;
the market takes nodes back, with a notice and without. And the machines do what machines would: the
drivers hear of those that were told to join them.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scsched.cluster.ec2.instances import DEPLOYMENT, GANG, POOL
from tests.cloudbox.client import Box, Machine
from tests.faults.births import Births
from tests.faults.kill.nodes import Node, Nodes

PAUSE_S = 0.1
SHOWN_S = 10.0
"""How long an ended instance is looked at."""
LATEST_LISTING_S = 1.0
LIES = 0.03
"""Chance, at each look, that the next listings lie, or that new instances come late from now on."""
TAKEN_BACK = 0.15
"""Share of the spot instances."""


@contextmanager
def over(box: Box, nodes: Nodes) -> Iterator[None]:
    """For the length of the block."""
    _set_faults(box)
    weather = Weather(box, nodes)
    weather.start()
    try:
        yield
    finally:
        weather.stop()


def _set_faults(box: Box) -> None:
    seed = random.randrange(2**31)  # noqa: S311 - makes faults
    often: dict[str, dict[str, object]] = {
        "slow": {"delay_s": 0.05, "probability": 0.7},
        "lost": {"lost_reply": True, "probability": 0.1},
        "no room": {"code": "InsufficientInstanceCapacity", "probability": 0.08},
        "too many": {"code": "RequestLimitExceeded", "probability": 0.03},
        "broken": {"code": "InternalError", "probability": 0.03},
        "end lost": {"action": "TerminateInstances", "lost_reply": True, "probability": 0.05},
        "end broken": {
            "action": "TerminateInstances",
            "code": "InternalError",
            "probability": 0.05,
        },
        "no list": {"action": "DescribeInstances", "code": "InternalError", "probability": 0.02},
    }
    for number, words in enumerate(often.values()):
        box.fault(times=None, seed=seed + number, **words)  # type: ignore[arg-type]


class Weather(threading.Thread):
    """Looks at the box's own list ten times a second."""

    def __init__(self, box: Box, nodes: Nodes) -> None:
        super().__init__(name="weather")
        self._box, self._nodes, self._births = box, nodes, Births(box)
        self._stopping = threading.Event()
        self._known: set[str] = set()
        self._ended: set[str] = set()
        self._doomed: list[tuple[float, str]] = []
        self._failure: BaseException | None = None
        self._chance = random.Random()  # noqa: S311 - makes weather

    def stop(self) -> None:
        """:raises RuntimeError: it had ended by itself, and nothing of the campaign counts."""
        self._stopping.set()
        self.join(timeout=60.0)
        if self._failure is not None:
            raise RuntimeError("the weather broke down") from self._failure

    def run(self) -> None:
        try:
            while not self._stopping.wait(PAUSE_S):
                self._look(self._box.instances(ended_within_s=SHOWN_S))
                self._take_back()
                self._lie()
        except BaseException as exc:
            self._failure = exc

    def _look(self, machines: Sequence[Machine]) -> None:
        for machine in machines:
            if machine.instance_id not in self._known:
                self._known.add(machine.instance_id)
                self._is_born(machine)
            if machine.ended_at is not None and machine.instance_id not in self._ended:
                self._ended.add(machine.instance_id)
                self._nodes.change(
                    "UPDATE nodes SET stopped_at = ? WHERE provider_id = ?",
                    time.time(),
                    machine.instance_id,
                )

    def _is_born(self, machine: Machine) -> None:
        if machine.tags[GANG].startswith("stranger"):
            return
        now = time.time()
        self._nodes.add(
            Node(
                provider_id=machine.instance_id,
                token=f"{machine.tags[GANG]}-{machine.index}",
                deployment=machine.tags[DEPLOYMENT],
                pool=machine.tags[POOL],
                name=self._births.node(machine)["name"],
                address=self._births.address(machine),
                made_at=now,
                up_at=now + self._chance.uniform(0.0, 0.3),
                listed_at=now,
            )
        )
        if machine.spot and self._chance.random() < TAKEN_BACK:
            self._doomed.append((now + self._chance.uniform(0.2, 3.0), machine.instance_id))

    def _take_back(self) -> None:
        now = time.time()
        due = [identity for at, identity in self._doomed if at <= now]
        self._doomed = [(at, identity) for at, identity in self._doomed if at > now]
        for identity in due:
            if self._chance.random() < 0.5:
                self._box.reclaim(identity, notice_s=0.5)
            else:
                self._box.lose(identity)

    def _lie(self) -> None:
        if self._chance.random() < LIES:
            self._box.describe_partial(calls=3, seed=self._chance.randrange(2**31))
        if self._chance.random() < LIES:
            self._box.describe_empty(calls=2)
        if self._chance.random() < LIES:
            late_s = self._chance.choice([0.0, LATEST_LISTING_S])
            self._box.describe_late(seconds=late_s)
