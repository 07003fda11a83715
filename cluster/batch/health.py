"""What a batch system has and lacks for our pools. Asks Slurm, changes nothing, submits nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scsched.cluster.batch import options
from scsched.cluster.batch.queue import Queue
from scsched.cluster.health import Finding
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import ProviderError

_MIB = 1024
_SHAPES = "%D|%c|%m"
"""sinfo(1): nodes of one shape, CPUs and MiB of each."""


@dataclass(frozen=True, slots=True)
class _Shape:
    nodes: int
    cpus: int
    memory_mib: int


def examine(
    ask: Callable[..., str], queue: Queue, pools: Sequence[Pool], keys: Sequence[str]
) -> Iterator[Finding]:
    """Without an answer from Slurm nothing else is asked.

    :param ask: runs one of Slurm's commands and returns its answer.
    :param keys: of a pool, that Slurm has a word for.
    """
    try:
        yield _slurm(ask)
    except ProviderError as exc:
        hint = "commands and conf of the provider's table say where Slurm's programs and file are"
        yield Finding("slurm", ok=False, sentence=str(exc), hint=exc.hint or hint)
        return
    yield _accounts(queue)
    for pool in pools:
        try:
            yield from _partition(ask, queue, pool, options.pool(pool, keys).partition)
        except ProviderError as exc:
            yield Finding(
                "partition",
                ok=False,
                sentence=f"pool {pool.name}: {exc}",
                hint=exc.hint or "see what there is with: sinfo",
            )


def unproven(kind: str) -> Finding:
    """Of a batch system that is not Slurm."""
    said = f"{kind} is proven as far as its job script; no real one has run scsched's nodes yet"
    return Finding("proof", ok=True, sentence=said)


def _slurm(ask: Callable[..., str]) -> Finding:
    version = ask("sinfo", "--version").strip()
    state = ask("scontrol", "ping").strip().replace("\n", "; ")
    return Finding("slurm", ok=True, sentence=f"{version}: {state}")


def _accounts(queue: Queue) -> Finding:
    if queue.has_accounts():
        return Finding("accounts", ok=True, sentence="ended jobs are looked up with sacct")
    said = f"none: how a job ended is known for {queue.setting('MinJobAge')} (MinJobAge) only"
    return Finding("accounts", ok=True, sentence=said)


def _partition(ask: Callable[..., str], queue: Queue, pool: Pool, name: str) -> Iterator[Finding]:
    found = queue.partition(name)
    up = found.state == "UP"
    sentence = f"pool {pool.name}: {name} is {found.state}"
    if pool.market is Market.SPOT:
        sentence += f", gives {found.grace_s:.0f} s before it takes a job back"
    yield Finding(
        "partition", up, sentence, "" if up else f"scontrol update PartitionName={name} State=UP"
    )
    fit = sum(one.nodes for one in _shapes(ask, name) if _fits(one, pool))
    enough = fit >= pool.max_nodes
    yield Finding(
        "nodes",
        ok=fit > 0,
        sentence=f"pool {pool.name}: {fit} nodes of {name} have {pool.cores} cores and "
        f"{pool.memory_gib:g} GiB; max_nodes is {pool.max_nodes}",
        hint="" if enough else "a node of the pool is a whole machine or a part of one; see sinfo",
    )


def _shapes(ask: Callable[..., str], name: str) -> Iterator[_Shape]:
    """`sinfo` writes 64+ where nodes of several shapes are in one line."""
    for line in ask("sinfo", "--noheader", f"--partition={name}", f"--format={_SHAPES}").split():
        words = [word.rstrip("+") for word in line.split("|")]
        if len(words) == 3 and all(word.isdecimal() for word in words):
            yield _Shape(*map(int, words))


def _fits(shape: _Shape, pool: Pool) -> bool:
    return shape.cpus >= pool.cores and shape.memory_mib >= pool.memory_gib * _MIB
