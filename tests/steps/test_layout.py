"""RELION's rank rules on nodes of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.steps.layout import Layout, Misfit, lay_out, widths
from scsched.steps.spec import Demand, Shape


def laid(demand: Demand, *, nodes: int = 1, cores: int = 8, memory_gib: float = 64) -> Layout:
    found = lay_out(demand, nodes=nodes, cores_per_node=cores, memory_gib_per_node=memory_gib)
    assert isinstance(found, Layout), found
    return found


def test_classification_on_one_node_is_one_process_with_threads() -> None:
    found = laid(Demand(shape=Shape.MPI, ranks=3))
    assert (found.nodes, found.ranks, found.threads) == (1, 1, 8)


def test_classification_on_three_nodes_has_a_worker_on_each_and_a_leader() -> None:
    found = laid(Demand(shape=Shape.MPI, ranks=5), nodes=3)
    assert (found.nodes, found.ranks, found.threads) == (3, 4, 8)


@pytest.mark.parametrize(
    ("nodes", "ranks", "threads"), [(1, 3, 4), (2, 3, 8), (3, 7, 4), (4, 5, 8)]
)
def test_auto_refine_has_an_even_number_of_workers(nodes: int, ranks: int, threads: int) -> None:
    found = laid(Demand(shape=Shape.SPLIT_HALVES, ranks=3), nodes=nodes)
    assert (found.nodes, found.ranks, found.threads) == (nodes, ranks, threads)


def test_auto_refine_runs_on_a_single_core() -> None:
    found = laid(Demand(shape=Shape.SPLIT_HALVES), cores=1)
    assert (found.ranks, found.threads) == (3, 1)


def test_halves_that_fit_once_on_a_node_use_an_even_number_of_nodes() -> None:
    demand = Demand(shape=Shape.SPLIT_HALVES, memory_gib=20, leader_memory_gib=2)
    found = laid(demand, nodes=3, memory_gib=32)
    assert (found.nodes, found.ranks, found.memory_gib_per_node) == (2, 3, 22)


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Demand(shape=Shape.SPLIT_HALVES, memory_gib=17.2), "memory 17.2 GiB a worker > 8.0 GiB"),
        (Demand(shape=Shape.SPLIT_HALVES, memory_gib=6), "memory 2 x 6.0 GiB a worker > 8.0 GiB"),
        (Demand(shape=Shape.SERIAL, memory_gib=9), "memory 9.0 GiB a worker > 8.0 GiB a node"),
    ],
)
def test_what_does_not_fit_says_so_in_words(demand: Demand, words: str) -> None:
    found = lay_out(demand, nodes=1, cores_per_node=8, memory_gib_per_node=8)
    assert isinstance(found, Misfit)
    assert words in str(found)


def test_the_leader_needs_room_beside_a_worker() -> None:
    demand = Demand(shape=Shape.MPI, ranks=3, memory_gib=7.5, leader_memory_gib=1)
    assert isinstance(lay_out(demand, nodes=2, cores_per_node=8, memory_gib_per_node=8), Misfit)
    assert laid(demand, nodes=1, memory_gib=8).ranks == 1


def test_a_program_with_ranks_only_fills_one_node() -> None:
    demand = Demand(shape=Shape.THREADS, ranks=4, memory_gib=2)
    assert laid(demand, nodes=3).ranks == 8
    assert laid(demand, memory_gib=7).ranks == 3
    assert laid(demand, cores=1).ranks == 1


def test_threads_beside_a_gpu_are_those_asked_for() -> None:
    assert laid(Demand(shape=Shape.THREADS, threads=2, gpus=1)).threads == 2
    assert laid(Demand(shape=Shape.THREADS, threads=2)).threads == 8


def test_a_serial_step_takes_one_core_of_one_node() -> None:
    found = laid(Demand(), nodes=4)
    assert (found.nodes, found.ranks, found.threads) == (1, 1, 1)


@pytest.mark.parametrize(
    ("demand", "most", "expected"),
    [
        (Demand(), 4, (1,)),
        (Demand(shape=Shape.THREADS, ranks=4), 4, (1,)),
        (Demand(shape=Shape.MPI, ranks=1), 4, (1,)),
        (Demand(shape=Shape.MPI, ranks=3), 4, (2, 1)),
        (Demand(shape=Shape.MPI, ranks=9), 4, (4, 3, 2, 1)),
        (Demand(shape=Shape.SPLIT_HALVES, ranks=1), 4, (2, 1)),
        (Demand(shape=Shape.SPLIT_HALVES, ranks=5), 4, (4, 3, 2, 1)),
        (Demand(shape=Shape.SPLIT_HALVES, ranks=5), 1, (1,)),
        (Demand(shape=Shape.MPI, ranks=3), 0, ()),
    ],
)
def test_widths_go_down_from_a_node_for_each_worker(
    demand: Demand, most: int, expected: tuple[int, ...]
) -> None:
    assert widths(demand, most) == expected


@given(
    demand=st.builds(
        Demand,
        shape=st.sampled_from(Shape),
        ranks=st.integers(1, 20),
        threads=st.integers(1, 20),
        gpus=st.integers(0, 4),
        memory_gib=st.floats(0, 40),
        leader_memory_gib=st.floats(0, 10),
    ),
    nodes=st.integers(1, 12),
    cores=st.integers(1, 128),
    memory_gib=st.floats(0.5, 512),
)
def test_every_layout_keeps_the_rules(
    demand: Demand, nodes: int, cores: int, memory_gib: float
) -> None:
    found = lay_out(demand, nodes=nodes, cores_per_node=cores, memory_gib_per_node=memory_gib)
    if isinstance(found, Misfit):
        assert "\n" not in str(found)
        return
    assert 1 <= found.nodes <= nodes
    assert found.threads >= 1
    assert found.memory_gib_per_node <= memory_gib
    workers = found.ranks if found.ranks == 1 else found.ranks - 1
    if demand.shape is Shape.SPLIT_HALVES:
        assert found.ranks >= 3
        assert found.ranks % 2 == 1
        assert workers % found.nodes == 0
        assert cores == 1 or workers * found.threads <= found.nodes * cores
    if demand.shape is Shape.MPI:
        assert found.ranks == (1 if found.nodes == 1 else found.nodes + 1)
        assert found.threads == cores
