"""What must be true of the nodes when all is over: what there was, is on record, and has cost."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal

from scsched.cluster.provider import NodeState as Existence
from tests.faults.kill.journal import Kind
from tests.faults.kill.nodes import Node
from tests.faults.kill.record import ChargeRow, Record

Problems = Iterator[str]
CLOCK = timedelta(seconds=5)
"""A node is recorded as ended at the start of the tick that saw it gone."""
CENT = Decimal("0.01")


def every_node_is_recorded(record: Record) -> Problems:
    recorded = {node.token: node for node in record.nodes}
    for node in _ours(record):
        row = recorded.get(node.token)
        if row is None:
            yield f"{node.provider_id}, launched under {node.token}, is known to nobody"
        elif row.launched_at is None:
            yield f"{node.provider_id}: nobody is charged for it; n{row.id} ended: {row.end_reason}"
        elif row.provider_id != node.provider_id:
            yield f"{node.provider_id} is not n{row.id} of its token, which is {row.provider_id}"
    for node in record.outside:
        if node.deployment != record.deployment:
            yield f"{node.provider_id} has the deployment {node.deployment}"


def no_token_launches_twice(record: Record) -> Problems:
    for token, times in Counter(node.token for node in record.outside).items():
        if times > 1:
            yield f"{token}: {times} nodes"


def no_attempt_has_two_sets_of_nodes(record: Record) -> Problems:
    """At no birth of a node of a run there were more of them than the run is wide."""
    outside = {node.provider_id: node for node in record.outside}
    ids = {row.id: row.provider_id or "" for row in record.nodes}
    used: defaultdict[int, set[str]] = defaultdict(set)
    for charge in record.charges:
        if charge.run_id is not None:
            used[charge.run_id].add(ids[charge.node_id])
    for run in record.runs:
        mine = [outside[one] for one in used[run.id] if one in outside]
        most = max((len(_up_at_birth_of(one, mine)) for one in mine), default=0)
        if most > run.layout["nodes"]:
            yield f"run {run.id} of {run.layout['nodes']} nodes had {most} at once"


def no_pool_is_over_its_limit(record: Record) -> Problems:
    most = {pool.name: pool.max_nodes for pool in record.outcome.site.settings.pool}
    for node in _ours(record):
        there = _up_at_birth_of(node, [one for one in _ours(record) if one.pool == node.pool])
        if len(there) > most[node.pool]:
            yield f"{node.token} was number {len(there)} in {node.pool}"


def no_node_is_left(record: Record) -> Problems:
    """Outside or in the database, and none outlived the record of its end."""
    ended = {node.token: node.ended_at for node in record.nodes}
    now = max((entry.at for entry in record.journal), default=0.0) + CLOCK.total_seconds()
    for node in record.outside:
        said = ended.get(node.token)
        if node.state(now) is not Existence.TERMINATED or node.ended_at is None:
            yield f"{node.provider_id} ({node.token}) runs still; its record ended at {said}"
        elif said is not None and node.ended_at > said.timestamp() + CLOCK.total_seconds():
            late_s = node.ended_at - said.timestamp()
            yield f"{node.provider_id} lived for {late_s:.1f} s after its record"
    for row in record.nodes:
        if row.ended_at is None:
            yield f"n{row.id} is {row.state}"


def no_node_of_ours_is_ended_as_a_stranger(record: Record) -> Problems:
    planted = _planted(record)
    for event in record.events:
        if event.kind == "stranger_ended" and not any(one in event.text for one in planted):
            yield event.text


def charges_partition_the_life_of_each_node(record: Record) -> Problems:
    of_node: defaultdict[int, list[ChargeRow]] = defaultdict(list)
    for charge in sorted(record.charges, key=lambda charge: charge.id):
        of_node[charge.node_id].append(charge)
    for node in record.nodes:
        charges = of_node[node.id]
        edges = [charge.started_at for charge in charges] + [node.ended_at]
        ends = [charge.ended_at for charge in charges]
        if node.launched_at is None:
            if charges:
                yield f"n{node.id} was not launched and has {len(charges)} charges"
        elif edges[0] != node.launched_at or edges[1:] != ends:
            yield f"n{node.id}, {node.launched_at} to {node.ended_at}: {charges}"


def every_node_is_paid_for_to_the_cent(record: Record) -> Problems:
    """The ledger and the bill of whoever sends one, node by node and in all."""
    if record.bill is None:
        return
    paid: defaultdict[str, Decimal] = defaultdict(Decimal)
    ids = {row.id: row.provider_id or "" for row in record.nodes}
    for charge in record.charges:
        paid[ids[charge.node_id]] += _usd(charge)
    due = {one.provider_id: record.bill[one.provider_id] for one in _ours(record)}
    for identity in due.keys() | paid.keys():
        ours, theirs = paid[identity], due.get(identity, Decimal(0))
        if abs(ours - theirs) >= CENT / 2:
            yield f"{identity}: ${ours:.4f} on record, ${theirs:.4f} on the bill"
    ours, theirs = sum(paid.values(), Decimal(0)), sum(due.values(), Decimal(0))
    if ours.quantize(CENT) != theirs.quantize(CENT):
        yield f"all together: ${ours:.2f} on record, ${theirs:.2f} on the bill"


def every_node_has_its_events(record: Record) -> Problems:
    told: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for event in record.events:
        if event.node_id is not None:
            told[event.node_id][event.kind] += 1
    for node in record.nodes:
        expected = {
            "node_requested": True,
            "launched": node.launched_at is not None,
            "up": node.up_at is not None,
            "terminate_asked": node.terminate_asked_at is not None,
            "node_ended": node.ended_at is not None,
        }
        for kind, is_due in expected.items():
            if told[node.id][kind] != is_due:
                yield f"n{node.id}: {told[node.id][kind]} events {kind}, {int(is_due)} expected"


CHECKS: Sequence[Callable[[Record], Problems]] = (
    every_node_is_recorded,
    no_token_launches_twice,
    no_attempt_has_two_sets_of_nodes,
    no_pool_is_over_its_limit,
    no_node_is_left,
    no_node_of_ours_is_ended_as_a_stranger,
    charges_partition_the_life_of_each_node,
    every_node_is_paid_for_to_the_cent,
    every_node_has_its_events,
)


def _planted(record: Record) -> Collection[str]:
    """Tokens of the nodes that we made for nobody."""
    return {entry.token for entry in record.entries(Kind.PLANTED)}


def _ours(record: Record) -> list[Node]:
    planted = _planted(record)
    return [node for node in record.outside if node.token not in planted]


def _up_at_birth_of(one: Node, among: Collection[Node]) -> list[Node]:
    """With itself."""
    return [
        other
        for other in among
        if other is one
        or (
            other.made_at <= one.made_at
            and (other.ended_at is None or other.ended_at > one.made_at)
        )
    ]


def _usd(charge: ChargeRow) -> Decimal:
    """Nothing while it is open: that is another's finding."""
    if charge.ended_at is None:
        return Decimal(0)
    micros = (charge.ended_at - charge.started_at) // timedelta(microseconds=1)
    return charge.usd_per_hour * micros / 3_600_000_000
