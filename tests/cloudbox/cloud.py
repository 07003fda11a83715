"""The instances of the box and their states, as EC2 tells them.

    pending -> running -> shutting-down -> terminated
                       \\-> stopped (shut down from inside, when it was launched so)

moto keeps the records and writes the answers; which state holds, since when and why is decided
here. Times are whole seconds, as in EC2's answers, so that whoever reads those gets our bill.
"""

import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from moto.ec2.exceptions import InvalidInstanceIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Instance, InstanceState, Reservation, StateReason

from tests.cloudbox import launching, notices
from tests.cloudbox.faults import Call, Faults
from tests.cloudbox.launching import LaunchCall, Limits, Tokens
from tests.cloudbox.listing import View
from tests.cloudbox.machines import Machines, Record
from tests.cloudbox.placement import Groups
from tests.cloudbox.prices import PriceBook
from tests.cloudbox.timeline import Timeline

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopped": 80}
BY_USER = ("Client.UserInitiatedShutdown", "User initiated shutdown", "User initiated")
BY_ITSELF = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown", "User initiated")
BY_SPOT = ("Server.SpotInstanceTermination", "Spot instance termination", "Service initiated")
FORGET_S = 3600.0
"""How long an ended instance is listed."""

Why = tuple[str, str, str]


@dataclass(slots=True)
class Cloud:
    """All of it. Every public method may be called from any thread."""

    backend: EC2Backend
    machines: Machines
    boot_s: float = 0.0
    shutting_down_s: float = 0.1
    forget_s: float = FORGET_S
    book: PriceBook = field(default_factory=PriceBook)
    faults: Faults = field(default_factory=Faults)
    limits: Limits = field(default_factory=Limits)
    view: View = field(default_factory=View)
    groups: Groups = field(default_factory=Groups)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _vcpus: dict[str, int] = field(default_factory=dict)
    _records: dict[str, Record] = field(default_factory=dict)
    _tokens: Tokens = field(default_factory=Tokens)
    _timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self.book.vcpus = self._vcpus

    def record(self, instance_id: str) -> Record:
        with self.lock:
            return self._records[instance_id]

    def records(self) -> Sequence[Record]:
        with self.lock:
            return list(self._records.values())

    def learn(self, kind: str) -> None:
        """:raises moto's InvalidInstanceType: there is no such type."""
        if kind not in self._vcpus:
            found = next(iter(self.backend.describe_instance_types([kind])))
            self._vcpus[kind] = int(found["VCpuInfo"]["DefaultVCpus"])

    def clear(self) -> None:
        """Ends every instance and forgets it, and all that was set."""
        with self.lock:
            identities = [one for one in self._records if self._records[one].ended_at is None]
            for identity in identities:
                self._records[identity].ended_at = _now()
        for identity in identities:
            self.machines.kill(identity, silent=True)
        with self.lock:
            self.backend.reservations.clear()
            self.backend.key_pairs.clear()
            self._records.clear()
            self._tokens, self.faults, self.limits, self.view = Tokens(), Faults(), Limits(), View()
            self.groups = Groups()
            self.book, self.forget_s = PriceBook(self._vcpus), FORGET_S

    # ------------------------------------------------------------------ launch

    def replayed(self, launch: LaunchCall) -> Reservation | None:
        """What this token has made before.

        :raises Refusal: it has said other words, or one of its instances is gone.
        """
        made = self._tokens.reservation(launch) if launch.token else None
        if made is None:
            return None
        reservation: Reservation = self.backend.reservations[made]
        if any(one.state == "terminated" for one in reservation.instances):
            raise launching.terminated()
        return reservation

    def granted(self, launch: LaunchCall) -> int:
        """:raises Refusal: no capacity, over quota, too low a price."""
        self.learn(launch.kind)
        up = [_call(one) for one in self._records.values() if one.ended_at is None]
        price = self.book.spot(launch.kind, launch.zone, _now())
        return self.limits.grant(launch, up, self._vcpus, price)

    def runs(self, instance_id: str) -> bool:
        """Whether it is there still."""
        record = self._records.get(instance_id)
        return record is not None and record.ended_at is None

    def adopt(self, reservation: Reservation, launch: LaunchCall) -> None:
        """Takes over what moto has recorded, and boots it."""
        self._tokens.remember(launch, reservation.id)
        self.groups.join(launch, [instance.id for instance in reservation.instances])
        for instance in reservation.instances:
            record = self._born(instance, spot=launch.spot)
            self._timeline.after(self.boot_s, lambda record=record: self._boot(record))  # type: ignore[misc]

    def _born(self, instance: Instance, *, spot: bool) -> Record:
        now = _now()
        instance.launch_time = now.replace(tzinfo=None)
        instance.lifecycle = "spot" if spot else None
        if spot:
            instance.spot_instance_request_id = f"sir-{instance.id[2:10]}"  # type: ignore[attr-defined]
        _move(instance, "pending")
        tree = notices.tree_of(instance)
        record = Record(instance=instance, spot=spot, launched_at=now, tree=tree)
        self._records[instance.id] = record
        self.view.born(instance.id)
        return record

    def _boot(self, record: Record) -> None:
        identity = record.instance.id
        with self.lock:
            if record.ended_at is None:
                self.machines.boot(
                    record, lambda: self._is_up(record), lambda: self.shut_down(identity)
                )

    def _is_up(self, record: Record) -> None:
        with self.lock:
            if record.instance.state == "pending":
                _move(record.instance, "running")

    # ------------------------------------------------------------------ end

    def terminate(self, ids: Sequence[str]) -> Sequence[tuple[Instance, InstanceState]]:
        """All or, when one of them is unknown, none."""
        with self.lock:
            unknown = [one for one in ids if one not in self._records]
            if unknown:
                raise InvalidInstanceIdError(unknown)
            before = [copy.copy(self._records[one].instance._state) for one in ids]
            for one in ids:
                self.end(one, BY_USER)
            found = [self._records[one].instance for one in ids]
            return list(zip(found, before, strict=True))

    def end(self, instance_id: str, why: Why) -> None:
        """Its end begins; its cost stops here. Done already: nothing happens."""
        with self.lock:
            record = self._records.get(instance_id)
            if record is None or record.instance.state in ("shutting-down", "terminated"):
                return
            record.ended_at = record.ended_at or _now()
            _move(record.instance, "shutting-down", why, record.ended_at)
        threading.Thread(target=self._finish, args=(record, why), daemon=True).start()

    def _finish(self, record: Record, why: Why) -> None:
        started = time.monotonic()
        self.machines.kill(record.instance.id, silent=False)
        time.sleep(max(0.0, started + self.shutting_down_s - time.monotonic()))
        with self.lock:
            record.instance.terminate()
            _move(record.instance, "terminated", why, record.ended_at)

    def shut_down(self, instance_id: str) -> None:
        """It has shut itself down."""
        with self.lock:
            record = self._records.get(instance_id)
            if record is None or record.ended_at is not None:
                return
            if record.instance.instance_initiated_shutdown_behavior == "terminate":
                self.end(instance_id, BY_ITSELF)
            else:
                record.ended_at = _now()
                _move(record.instance, "stopped", BY_ITSELF, record.ended_at)

    # ------------------------------------------------------------------ spot

    def reclaim(self, instance_id: str, *, notice_s: float, rebalance_s: float = 0.0) -> None:
        """A hint (when `rebalance_s`), then a warning (when `notice_s`), then the end."""
        record = self.record(instance_id)
        if rebalance_s:
            self._tell(record, notices.hint)
        self._timeline.after(rebalance_s, lambda: self._warn(record, notice_s))

    def hint(self, instance_id: str) -> None:
        """A rebalance recommendation, and nothing after it."""
        self._tell(self.record(instance_id), notices.hint)

    def lose(self, instance_id: str) -> None:
        """It vanishes from the network, then EC2 says that spot has taken it."""
        self.machines.kill(instance_id, silent=True)
        self.end(instance_id, BY_SPOT)

    def vanish(self, instance_id: str) -> None:
        """It is dead, and EC2 does not know: running, and paid, until somebody terminates it."""
        self.machines.kill(instance_id, silent=True)

    def _warn(self, record: Record, notice_s: float) -> None:
        if record.ended_at is not None:
            return
        if notice_s:
            self._tell(record, lambda one, tree: notices.warn(one, tree, notice_s=notice_s))
        self._timeline.after(notice_s, lambda: self.end(record.instance.id, BY_SPOT))

    def _tell(self, record: Record, say: Callable[[Instance, notices.Tree], None]) -> None:
        with self.lock:
            say(record.instance, record.tree)
            self.machines.tell(record)

    # ------------------------------------------------------------------ what is seen

    def listed(self, filters: Mapping[str, Sequence[str]] | None) -> list[Reservation]:
        """What DescribeInstances shows, before moto's own filters."""
        shown = set(self.view.shown(self._remembered()))
        every = self.backend.reservations.values()
        found = [_only(one, shown & _passing(one, filters or {})) for one in every]
        return [one for one in found if one.instances]

    def known(self, ids: Sequence[str]) -> list[Reservation]:
        """The same for named instances.

        :raises moto's InvalidInstanceID.NotFound: one is unknown, or not shown yet.
        """
        known = set(self.view.known(self._remembered()))
        missing = [one for one in ids if one not in known]
        if missing:
            raise InvalidInstanceIdError(missing)
        wanted = set(ids)
        every = [_only(one, wanted) for one in self.backend.reservations.values()]
        return [one for one in every if one.instances]

    def bill(self) -> Mapping[str, Decimal]:
        """US dollars by instance until now."""
        now = datetime.now(UTC)
        return {one.instance.id: self.book.usd(one.interval, now) for one in self.records()}

    def _remembered(self) -> Sequence[str]:
        now = datetime.now(UTC)
        return [
            identity
            for identity, one in self._records.items()
            if one.ended_at is None or (now - one.ended_at).total_seconds() < self.forget_s
        ]


OWN_FILTERS = frozenset({"client-token", "instance-lifecycle"})


def _passing(reservation: Reservation, filters: Mapping[str, Sequence[str]]) -> set[str]:
    tokens, markets = filters.get("client-token"), filters.get("instance-lifecycle")
    return {
        one.id
        for one in reservation.instances
        if (tokens is None or one.client_token in tokens)
        and (markets is None or one.lifecycle in markets)
    }


def _only(reservation: Reservation, ids: set[str]) -> Reservation:
    found = copy.copy(reservation)
    found.instances = [one for one in reservation.instances if one.id in ids]
    return found


def _call(record: Record) -> Call:
    one = record.interval
    market = "spot" if one.spot else "on-demand"
    return Call(action="RunInstances", kind=one.kind, zone=one.zone, market=market)


def _move(
    instance: Instance, state: str, why: Why | None = None, at: datetime | None = None
) -> None:
    instance._state = InstanceState(state, CODES[state])
    if why is None or at is None:
        return
    code, message, who = why
    instance.state_reason = StateReason(f"{code}: {message}", code)
    instance._reason = f"{who} ({at:%Y-%m-%d %H:%M:%S} GMT)"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
