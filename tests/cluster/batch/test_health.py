"""What `doctor --cloud` says of a real Slurm, and of the batch systems that nobody has tried."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pytest

from scsched.cluster.batch import others, slurm
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.health import Finding
from scsched.cluster.pools import Pool
from tests.cluster.batch.conftest import POOLS
from tests.slurm.box import Box

SPOT, NORMAL, DOWN, MISSING, SHORT = POOLS


def examined(box: Box, site: SiteOptions, *pools: Pool) -> Sequence[Finding]:
    table = asdict(replace(site, conf=str(box.conf)))
    return list(slurm.examine("home", table, deployment="d", pools=pools))


def bad(findings: Sequence[Finding]) -> Mapping[str, str]:
    assert all(one.hint for one in findings if not one.ok)
    return {one.name: one.sentence for one in findings if not one.ok}


def test_a_good_site_has_nothing_bad(box: Box, site: SiteOptions) -> None:
    findings = examined(box, site, SPOT, NORMAL)
    assert bad(findings) == {}
    said = " ".join(one.sentence for one in findings)
    assert "pool spot: spot is UP, gives 3 s before it takes a job back" in said
    assert "pool normal: 2 nodes of normal have 2 cores and 1 GiB; max_nodes is 2" in said
    assert "300 sec (MinJobAge) only" in said
    assert not box.run("squeue", "--noheader")


def test_a_partition_that_is_not_there_or_down_is_found_and_the_rest_looked_at(
    box: Box, site: SiteOptions
) -> None:
    assert "missing" in bad(examined(box, site, MISSING, NORMAL))["partition"]
    assert "down is DOWN" in bad(examined(box, site, DOWN, NORMAL))["partition"]
    assert len(examined(box, site, MISSING, NORMAL)) == 5


@pytest.mark.parametrize("changes", [{"cores": 64}, {"memory_gib": 999.0}])
def test_a_pool_that_no_node_is_large_enough_for(
    box: Box, site: SiteOptions, changes: dict[str, float]
) -> None:
    large = replace(NORMAL, **changes)  # type: ignore[arg-type]
    assert "pool normal: 0 nodes of normal have" in bad(examined(box, site, large))["nodes"]


def test_without_slurm_nothing_else_is_asked(box: Box, site: SiteOptions) -> None:
    table = asdict(replace(site, conf="/nowhere/slurm.conf"))
    (only,) = slurm.examine("home", table, deployment="d", pools=[NORMAL])
    assert not only.ok
    assert "sinfo" in only.sentence
    assert "conf" in only.hint


def test_what_is_not_proven_is_said(site: SiteOptions) -> None:
    table = {"kind": "pbs", "python": site.python, "unproven": True}
    (only,) = others.examine("home", table, deployment="d", pools=())
    assert only.ok
    assert "as far as its job script" in only.sentence
