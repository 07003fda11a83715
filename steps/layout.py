"""Places the processes of a step on like nodes, by RELION's rank rules. Pure.

- A leader hands out the work and polls: it counts no core and shares the first node with a worker.
- Threads before ranks: threads share the references in memory, ranks do not.
- 2D and 3D classification need no MPI on one node; over several they have one worker on each.
- Auto-refine splits the particles in halves: an even number of workers, so an odd number of ranks,
  three or more; as many on every node.

    1 node   L w w          2 nodes  L w | w         3 nodes  L w w | w w | w w
"""

from dataclasses import dataclass

from scsched.steps.spec import Demand, Shape


@dataclass(frozen=True, slots=True)
class Layout:
    """`ranks` counts the leader; each has `threads`. The memory is that of the fullest node."""

    nodes: int
    ranks: int
    threads: int
    memory_gib_per_node: float


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why the step cannot run on such nodes."""

    problem: str

    def __str__(self) -> str:
        return self.problem


def lay_out(
    demand: Demand, *, nodes: int, cores_per_node: int, memory_gib_per_node: float
) -> Layout | Misfit:
    """Ranks and threads for the demand on up to `nodes` nodes of that size.

    The layout may have fewer nodes than offered: what needs one uses one, and halves that do not
    fit twice on a node use an even number of nodes.
    """
    nodes, cores = max(1, nodes), max(1, cores_per_node)
    room_gib = memory_gib_per_node
    if demand.memory_gib > room_gib:
        return _too_large(demand, room_gib)
    if demand.shape is Shape.SERIAL:
        return Layout(nodes=1, ranks=1, threads=1, memory_gib_per_node=demand.memory_gib)
    if demand.shape is Shape.THREADS:
        return _one_node(demand, cores, room_gib)
    if demand.shape is Shape.MPI:
        return _workers(demand, nodes, cores, room_gib)
    return _halves(demand, nodes, cores, room_gib)


def widths(demand: Demand, max_nodes: int) -> tuple[int, ...]:
    """Numbers of nodes that the demand may run on, best first.

    The best is a node for each worker that the workflow asks for; all smaller numbers are allowed,
    so a run that lost a node may go on with fewer.
    """
    if demand.shape in (Shape.SERIAL, Shape.THREADS):
        return (1,) if max_nodes >= 1 else ()
    workers = max(1, demand.ranks - 1)
    if demand.shape is Shape.SPLIT_HALVES:
        workers = max(2, workers + workers % 2)
    return tuple(range(min(max_nodes, workers), 0, -1))


def _one_node(demand: Demand, cores: int, room_gib: float) -> Layout:
    if demand.ranks > 1:
        fitting = (ranks for ranks in range(cores, 1, -1) if ranks * demand.memory_gib <= room_gib)
        ranks = next(fitting, 1)
        memory_gib = ranks * demand.memory_gib
        return Layout(nodes=1, ranks=ranks, threads=1, memory_gib_per_node=memory_gib)
    # Beside a GPU more threads than asked for only take its memory.
    threads = min(demand.threads, cores) if demand.gpus else cores
    return Layout(nodes=1, ranks=1, threads=threads, memory_gib_per_node=demand.memory_gib)


def _workers(demand: Demand, nodes: int, cores: int, room_gib: float) -> Layout | Misfit:
    if nodes == 1:
        memory_gib = demand.memory_gib
        return Layout(nodes=1, ranks=1, threads=cores, memory_gib_per_node=memory_gib)
    memory_gib = demand.memory_gib + demand.leader_memory_gib
    if memory_gib > room_gib:
        return _too_large(demand, room_gib)
    return Layout(nodes=nodes, ranks=nodes + 1, threads=cores, memory_gib_per_node=memory_gib)


def _halves(demand: Demand, nodes: int, cores: int, room_gib: float) -> Layout | Misfit:
    for width in range(nodes, 0, -1):
        workers = 1 if width % 2 == 0 else 2
        memory_gib = workers * demand.memory_gib + demand.leader_memory_gib
        if memory_gib <= room_gib:
            return Layout(
                nodes=width,
                ranks=1 + width * workers,
                threads=max(1, cores // workers),
                memory_gib_per_node=memory_gib,
            )
    return _too_large(demand, room_gib, workers=2 if nodes == 1 else 1)


def _too_large(demand: Demand, room_gib: float, *, workers: int = 1) -> Misfit:
    need = f"{demand.memory_gib:.1f} GiB a worker"
    if demand.leader_memory_gib and demand.memory_gib <= room_gib:
        need = f"{workers} x {need} and {demand.leader_memory_gib:.1f} GiB for the leader"
    elif workers > 1 and demand.memory_gib <= room_gib:
        need = f"{workers} x {need}"
    return Misfit(f"memory {need} > {room_gib:.1f} GiB a node")
