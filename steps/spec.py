"""Value objects: what a person asked for, before any pool is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ResourceClass(StrEnum):
    """What limits a step, in the lab's own words."""

    MEMORY = "memory-bound"
    GPU = "gpu-bound"
    IO = "io-bound"
    CPU = "cpu-bound"
    LIGHT = "light"
    """Seconds of metadata work; also monitors, which live long and do little."""
    INTERACTIVE = "interactive"
    """Waits for a person."""


class Resume(StrEnum):
    """What an interrupted run of the protocol can go on from."""

    ITERATION = "iteration"
    """The newest whole RELION iteration."""
    ITEM = "item"
    """The movies or micrographs not done yet; Scipion's own resume does it."""
    NONE = "none"
    """Nothing: it starts again."""


class Shape(StrEnum):
    """How a step's processes may be laid out on nodes."""

    SERIAL = "serial"
    """One process, one thread."""
    THREADS = "threads"
    """One process with any number of threads, on one node."""
    MPI = "mpi"
    """A leader and one or more workers; one process with threads on one node."""
    SPLIT_HALVES = "split-halves"
    """RELION auto-refine: a leader and an even number of workers, so three ranks or more, odd."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one step needs. A memory figure is per worker; the leader's is apart."""

    shape: Shape = Shape.SERIAL
    ranks: int = 1
    """MPI ranks that the workflow asks for, the leader included; 1 is no MPI."""
    threads: int = 1
    gpus: int = 0
    vram_gib: float = 0.0
    memory_gib: float = 1.0
    leader_memory_gib: float = 0.0
    scratch_gib: float = 0.0
    box_px: int | None = None
    particles: int | None = None
    iterations: int | None = None
    """None: not known before it runs, as in auto-refine."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`child` waits for `parent`, because of the parameter at `where`."""

    parent: str
    child: str
    where: str
    output: str = ""
    """Name of the parent's output; empty: the protocol itself, or ordering only."""
    data: bool = True
    """False for `_prerequisites`: order only."""


@dataclass(frozen=True, slots=True)
class Step:
    """One Scipion protocol of a workflow. `id` is its object.id in the file."""

    id: str
    label: str
    protocol: str
    resource_class: ResourceClass
    demand: Demand
    resume: Resume
    gate: str = ""
    """What a person has to do first; empty: nothing."""
    long_lived: bool = False
    """A monitor or trigger: runs beside the others, never on a worker of an expensive class."""
    parents: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Warned:
    """Something a person should know, at a JSON path; the workflow runs all the same."""

    where: str
    problem: str


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked workflow: its steps in an order in which they may run."""

    steps: tuple[Step, ...]
    edges: tuple[Edge, ...]
    warnings: tuple[Warned, ...] = ()
