"""gang.json and the mpirun line made from it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster import gang as gangs
from scsched.cluster import mpirun, rundir, tags
from scsched.cluster.gang import Gang, Member, spread
from scsched.steps.errors import ConfigError, UsageError


@pytest.mark.parametrize(
    ("nodes", "ranks", "slots"),
    [(1, 3, [3]), (2, 3, [2, 1]), (2, 4, [2, 2]), (3, 3, [1, 1, 1]), (4, 5, [2, 1, 1, 1])],
)
def test_a_leader_is_on_the_lead_and_workers_are_spread(
    nodes: int, ranks: int, slots: list[int]
) -> None:
    gang = spread([f"n{k}" for k in range(nodes)], ranks)
    assert [member.slots for member in gang.members] == slots


@given(nodes=st.integers(1, 12), ranks=st.integers(1, 60))
def test_every_rank_has_a_place_and_no_node_two_workers_more(nodes: int, ranks: int) -> None:
    gang = spread([f"n{k}" for k in range(nodes)], ranks)
    assert gang.ranks == ranks
    assert gang.lead.name == "n0"
    workers = [m.slots - (m is gang.lead) for m in gang.members]
    assert max(workers) - min(workers) <= 1


def test_a_gang_survives_its_file(tmp_path: Path) -> None:
    gang = Gang((Member("n17", 2), Member("n18", 1)))
    gangs.write(gang, tmp_path / "gang.json")
    assert gangs.read(tmp_path / "gang.json") == gang


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"nodes": []}',
        '{"nodes": [{"name": "n1,evil", "slots": 1}]}',
        '{"nodes": [{"name": "n1", "slots": 0}]}',
        '{"nodes": [{"name": "n1", "slots": true}]}',
        '{"nodes": ["n1"]}',
    ],
)
def test_a_broken_gang_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gang.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"gang\.json"):
        gangs.read(path)


def test_one_node_is_a_plain_local_mpirun() -> None:
    line = mpirun.build(3, ["relion", "a b"], gang=spread(["n1"], 3), environ={}, uid=1000)
    assert line[-2:] == ["relion", "a b"]
    assert "localhost:3" in line
    assert "--allow-run-as-root" not in line
    assert "isolated" in line


def test_a_gang_is_reached_through_the_agents_and_never_hangs() -> None:
    environ = {tags.DEPLOYMENT: "gang-test", tags.NODE: "n1"}
    gang = spread(["n1", "n2"], 3)
    with pytest.raises(ConfigError, match="no agent"):
        mpirun.build(3, ["relion"], gang=gang, environ=environ, uid=0)
    rsh = rundir.make("gang-test", "n1") / "rsh"
    try:
        rsh.touch()
        line = mpirun.build(3, ["relion"], gang=gang, environ=environ, uid=0)
    finally:
        rundir.remove(os.geteuid(), "gang-test", "n1")
    assert line[line.index("--host") + 1] == "localhost:2,n2:1"
    assert line[line.index("plm_rsh_agent") + 1] == str(rsh)
    assert line[line.index("oob_tcp_keepalive_time") + 1] == "5"
    assert line[line.index("mpi_yield_when_idle") + 1] == "1"
    assert line[line.index("oob_tcp_keepalive_intvl") + 1] == "2"
    assert line[line.index("oob_tcp_keepalive_probes") + 1] == "3"
    assert "--oversubscribe" in line
    assert "--allow-run-as-root" in line


@pytest.mark.parametrize("argv", [[], ["-np"], ["-np", "3"], ["-np", "0", "x"], ["relion", "-np"]])
def test_another_call_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="-np N COMMAND"):
        mpirun.parse(argv)


def test_an_outer_mpi_run_leaves_no_trace() -> None:
    environ = {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0", "PATH": "/bin"}
    assert tags.without_mpi(environ) == {"PATH": "/bin"}
