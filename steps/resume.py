"""How the next attempt of a relion_refine job begins: anew, from a checkpoint, or not at all."""

from dataclasses import dataclass, replace
from pathlib import Path

from scsched.steps import checkpoint, command, publish, star
from scsched.steps.checkpoint import Checkpoint, Refused
from scsched.steps.command import Command
from scsched.steps.lineage import Lineage
from scsched.steps.star import Torn

DEFAULT_ITERATIONS = 50
"""RELION's own, where the command says nothing."""


@dataclass(frozen=True, slots=True)
class Anew:
    """Start at iteration 1 and write `root`; what former attempts left is first set aside."""

    root: str
    number: int
    why: str
    set_aside: bool = False


@dataclass(frozen=True, slots=True)
class GoOn:
    """Continue from `checkpoint` and write `root`."""

    root: str
    number: int
    checkpoint: Checkpoint
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """All iterations are there; only their names are to be put right."""

    number: int
    why: str
    checkpoint: Checkpoint | None = None


Plan = Anew | GoOn | Finish


def plan(
    asked: Command, lineage: Lineage, *, project: Path, attempt: int = 1, exact: bool = False
) -> Plan:
    """What the next attempt does. Reads files and changes none.

    `attempt` is the number the scheduler gave; a number in the record is never used again.
    """
    base = asked.value("--o")
    number = max(attempt, lineage.next_number())
    former = lineage.last(base)
    if former is None:
        return _unrecorded(base, number, project=project, exact=exact)
    if former.fingerprint != command.fingerprint(asked):
        return Anew(_root(base, number, exact), number, "its parameters changed", set_aside=True)
    if former.exit_code == 0 and not former.published and not former.exact:
        return Finish(number, "RELION had ended well before its files were linked")
    search = checkpoint.newest(
        lineage.branches(base), project=project, particles=input_particles(asked, project=project)
    )
    if search.newest is None:
        why = search.refused[0].why if search.refused else "no iteration was finished"
        return Anew(_root(base, number, exact), number, why, set_aside=True)
    if finished(asked, search.newest):
        return Finish(number, "its last iteration was written", search.newest)
    return GoOn(_root(base, number, exact), number, search.newest, search.refused)


def finished(asked: Command, found: Checkpoint) -> bool:
    """Whether this checkpoint is the last one that the command asks for."""
    last = iterations(asked, found)
    return last is not None and found.iteration >= last


def iterations(asked: Command, found: Checkpoint | None = None) -> int | None:
    """How many iterations the command makes; None where it does not say, as auto-refine."""
    if asked.auto_refine:
        return None
    if asked.gradient:
        return found.of if found else gradient_iterations(asked)
    if text := asked.value("--iter"):
        return int(text) if text.isdigit() else None
    return found.of if found else DEFAULT_ITERATIONS


def gradient_iterations(asked: Command) -> int | None:
    """The sum of the phases of RELION 3.1's `--sgd`."""
    phases = (("--sgd_ini_iter", 50), ("--sgd_inbetween_iter", 200), ("--sgd_fin_iter", 50))
    if not asked.has("--sgd"):
        return None
    texts = [asked.value(name) or str(default) for name, default in phases]
    return sum(map(int, texts)) if all(text.isdigit() for text in texts) else None


def input_particles(asked: Command, *, project: Path) -> int | None:
    """Rows of the input's particle table; None when they cannot be told."""
    source = asked.value("--i")
    if not source.endswith(".star"):
        return None
    try:
        return star.particles(project / source)
    except Torn:
        return None


EXACT_PROTOCOLS = frozenset({"ProtRelionClassify2D", "ProtRelionClassify3D"})
"""Scipion's protocols whose commands `can_be_exact` is about."""


def can_be_exact(asked: Command) -> bool:
    """2D or 3D classification from its beginning: each iteration follows from files alone."""
    modes = ("--auto_refine", "--split_random_halves", "--continue")
    return not asked.gradient and not any(asked.has(name) for name in modes)


def with_seed(asked: Command) -> Command:
    """With a seed that follows from the command, where it has none or takes the time of day."""
    if asked.value("--random_seed") not in ("", "-1"):
        return asked
    seed = int(command.fingerprint(asked)[:7], 16)
    return asked.replaced("--random_seed", str(seed))


def alone(asked: Command) -> Command:
    """In one process with one thread.

    Several workers, or threads, add up their sums in the order in which they happen to be done, and
    the last bits of the averages follow it: two equal runs with three ranks differ.
    """
    program = asked.program.removesuffix("_mpi")
    prefix = () if asked.mpi else asked.prefix
    return replace(asked, prefix=prefix, program=program).replaced("--j", "1")


def _unrecorded(base: str, number: int, *, project: Path, exact: bool) -> Anew:
    if not publish.leftovers(base, project=project):
        return Anew(base, number, "first attempt")
    why = "files of an attempt without record are there"
    return Anew(_root(base, number, exact), number, why, set_aside=True)


def _root(base: str, number: int, exact: bool) -> str:
    return base if exact else f"{base}_a{number}"


def shared(asked: Command, *, scratch: str = "") -> Command:
    """The command with what every attempt is given: a signal file to abort by, no weights on disk.

    `scratch` replaces the scratch folder of a command that asks for one.
    """
    folder = asked.value("--o").rpartition("/")[0]
    given = asked.added("--pipeline_control", f"{folder}/" if folder else "./")
    if given.mpi:
        given = given.added("--dont_combine_weights_via_disc")
    if scratch and given.has("--scratch_dir"):
        given = given.replaced("--scratch_dir", scratch)
    return given
