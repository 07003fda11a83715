"""Caps count what the providers list and what was asked of them, never memory alone."""

from decimal import Decimal

import pytest

from scsched.cluster.provider import NodeState, Seen
from scsched.scheduler import caps
from scsched.scheduler.caps import Alive, Limits
from tests.scheduler.world import pool

NONE = Limits()


def node(token: str, name: str = "cpu", usd: int = 1) -> Alive:
    return Alive(token, name, Decimal(usd))


def there(*nodes: Alive) -> dict[str, Alive]:
    return {one.token: one for one in nodes}


def test_strangers_of_the_list_count_as_much_as_nodes_on_record() -> None:
    seen = {
        "mine": Seen("mine", "i-1", NodeState.RUNNING),
        "gone": Seen("gone", "i-2", NodeState.TERMINATED),
        "theirs": Seen("theirs", "i-3", NodeState.RUNNING, pool="cpu"),
        "dear": Seen("dear", "i-4", NodeState.PENDING, pool="cpu", usd_per_hour=Decimal(9)),
    }
    recorded = [node("mine", usd=2), node("gone"), node("asked", usd=3)]
    found = caps.alive(seen, recorded, {"cpu": Decimal(1)})
    assert {one.token: one.usd_per_hour for one in found.values()} == {
        "mine": 2, "asked": 3, "theirs": 1, "dear": 9,
    }  # fmt: skip


def test_a_gang_fits_as_a_whole_or_not() -> None:
    two = pool(max_nodes=2)
    up = there(node("a"), node("other", "spot"))
    assert caps.over(two, [node("b")], up, NONE) == ""
    assert "1 of 2 nodes" in caps.over(two, [node("b"), node("c")], up, NONE)


def test_what_is_there_may_be_asked_for_again_whatever_the_caps_say() -> None:
    up = there(node("a"), node("b"), node("c"))
    assert caps.over(pool(max_nodes=2), [node("a"), node("b")], up, NONE) == ""


@pytest.mark.parametrize(
    ("values", "limits", "word"),
    [
        ({"max_usd_per_hour": Decimal(3)}, NONE, ""),
        ({"max_usd_per_hour": Decimal("2.99")}, NONE, "pool cpu: $3.000 an hour"),
        ({}, Limits(max_nodes=3), ""),
        ({}, Limits(max_nodes=2), "site: 2 of 2 nodes"),
        ({}, Limits(max_nodes=0), "site: 2 of 0 nodes"),
        ({}, Limits(max_usd_per_hour=Decimal(8)), ""),
        ({}, Limits(max_usd_per_hour=Decimal("7.5")), "site: $8.000 an hour"),
    ],
)
def test_dollars_are_capped_by_pool_and_by_site(
    values: dict[str, object], limits: Limits, word: str
) -> None:
    up = there(node("a"), node("other", "spot", usd=5))
    found = caps.over(pool("cpu", max_nodes=9, **values), [node("b", usd=2)], up, limits)
    assert found.startswith(word)
    assert bool(found) == bool(word)


def test_a_pool_that_caps_close_says_so_before_anything_is_asked_for() -> None:
    pools = [pool(max_nodes=9), pool("spot", usd_per_hour=Decimal("0.1"))]
    up = there(node("a", usd=4))
    limits = Limits(max_usd_per_hour=Decimal("4.5"))
    assert list(caps.full(pools, up, limits, {})) == ["cpu"]
    assert caps.full(pools, {}, limits, {}) == {}


def test_a_pool_full_by_its_own_count_is_not_held() -> None:
    """The queue sees that by itself, and lets others' idle nodes go for it."""
    assert caps.full([pool(max_nodes=1)], there(node("a")), NONE, {}) == {}
