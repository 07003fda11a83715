"""How likely a gang of spot nodes stays whole for a time. Pure.

Reclaims are taken as a Poisson process in node-hours of a pool, its rate as gamma distributed: the
prior counts as much as one reclaim seen in 24 node-hours. Seen k reclaims in h node-hours more,
n nodes for t hours stay whole with the probability

    ((24 + h) / (24 + h + n t)) ** (1 + k)

(posterior predictive of the Poisson-gamma model: Gelman et al., Bayesian Data Analysis, 2.6-2.7).
24 hours is the longest that the preemptible machines of one provider live at all, and long below
the usual life of others; the prior is to be cautious, and a day of a small gang outweighs it. Real
lives are shorter at their beginning and not memoryless: https://arxiv.org/abs/1911.05160.
"""

from dataclasses import dataclass

PRIOR_RECLAIMS = 1.0
PRIOR_NODE_HOURS = 24.0
LIKELY = 0.5
"""Below it an iteration is lost more often than not: each then costs more than two on average,
where nodes that are not taken back cost two to three times as much as spot ones."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a pool has shown so far."""

    reclaims: int = 0
    node_hours: float = 0.0


def survival(seen: Exposure, *, nodes: int, seconds: float) -> float:
    """The probability that none of `nodes` is taken back within `seconds`."""
    before = PRIOR_NODE_HOURS + seen.node_hours
    more = nodes * seconds / 3600.0
    return float((before / (before + more)) ** (PRIOR_RECLAIMS + seen.reclaims))


def likely(seen: Exposure, *, nodes: int, seconds: float) -> bool:
    """Whether an iteration of that length fits into a likely unbroken stretch."""
    return survival(seen, nodes=nodes, seconds=seconds) >= LIKELY
