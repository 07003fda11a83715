"""How many nodes may run, and at what cost an hour. Pure.

Counted is what the providers list, and what was asked of them and is not listed yet; our own
memory alone is never believed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from scsched.cluster.pools import Pool
from scsched.cluster.provider import NodeState, Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of the whole site; None: none."""

    max_nodes: int | None = None
    max_usd_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Alive:
    """A node that counts. `pool` is empty where nobody can tell."""

    token: str
    pool: str
    usd_per_hour: Decimal


def alive(
    seen: Mapping[str, Seen], recorded: Iterable[Alive], prices: Mapping[str, Decimal]
) -> dict[str, Alive]:
    """What runs or may run, by token.

    :param recorded: live nodes that were launched or asked for.
    :param prices: of a pool's node, where nobody else tells.
    """
    found = {one.token: one for one in recorded if not _ended(seen.get(one.token))}
    for token, node in seen.items():
        if token not in found and not _ended(node):
            usd = node.usd_per_hour
            price = prices.get(node.pool, Decimal(0)) if usd is None else usd
            found[token] = Alive(token, node.pool, price)
    return found


def over(pool: Pool, more: Iterable[Alive], there: Mapping[str, Alive], limits: Limits) -> str:
    """Why these nodes may not be added in `pool`; empty: they may, or are there already."""
    new = [one for one in more if one.token not in there]
    if not new:
        return ""
    mine = [one for one in there.values() if one.pool == pool.name]
    nodes, cost = len(mine) + len(new), _usd(mine) + _usd(new)
    if nodes > pool.max_nodes:
        return f"pool {pool.name}: {len(mine)} of {pool.max_nodes} nodes are up or asked for"
    if pool.max_usd_per_hour is not None and cost > pool.max_usd_per_hour:
        return f"pool {pool.name}: {_over(cost, pool.max_usd_per_hour)}"
    nodes, cost = len(there) + len(new), _usd(there.values()) + _usd(new)
    if limits.max_nodes is not None and nodes > limits.max_nodes:
        return f"site: {len(there)} of {limits.max_nodes} nodes are up or asked for"
    if limits.max_usd_per_hour is not None and cost > limits.max_usd_per_hour:
        return f"site: {_over(cost, limits.max_usd_per_hour)}"
    return ""


def full(
    pools: Iterable[Pool],
    there: Mapping[str, Alive],
    limits: Limits,
    prices: Mapping[str, Decimal],
) -> dict[str, str]:
    """Pools in which not one more node may be launched, and why; but for those whose own
    `max_nodes` is reached, which the queue sees by itself."""
    found = {}
    for pool in pools:
        mine = sum(one.pool == pool.name for one in there.values())
        one_more = Alive("one more", pool.name, prices.get(pool.name, pool.usd_per_hour))
        if mine < pool.max_nodes and (word := over(pool, [one_more], there, limits)):
            found[pool.name] = word
    return found


def _ended(seen: Seen | None) -> bool:
    return seen is not None and seen.state is NodeState.TERMINATED


def _usd(nodes: Iterable[Alive]) -> Decimal:
    return sum((one.usd_per_hour for one in nodes), Decimal(0))


def _over(cost: Decimal, limit: Decimal) -> str:
    return f"${cost:.3f} an hour would be more than the limit of ${limit:.3f}"
