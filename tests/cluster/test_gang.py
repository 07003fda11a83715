"""gang.json and the mpirun line made from it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster import gang as gangs
from scsched.cluster import leftovers, mpirun, rundir, tags
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
    rsh = leftovers.make("gang-test", "n1") / "rsh"
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


KEY = gangs.make_key()


def far(*hosts: str) -> Gang:
    names = [f"n{k}" for k in range(1, len(hosts) + 1)]
    addresses = {name: f"{host}:4000" for name, host in zip(names, hosts, strict=True)}
    return spread(names, len(hosts) + 1).reached(addresses, KEY)


@pytest.mark.parametrize(
    ("hosts", "network"),
    [
        (["10.1.2.3", "10.1.2.4"], "10.1.2.0/29"),
        (["10.1.2.10", "10.1.2.11"], "10.1.2.10/31"),
        (["10.1.2.3", "10.1.3.3", "10.1.2.9"], "10.1.2.0/23"),
        (["10.1.2.3", "192.168.0.1"], "0.0.0.0/0"),
        (["10.1.2.3", "10.1.2.3"], "10.1.2.3/32"),
    ],
)
def test_a_gang_talks_on_the_smallest_network_that_has_all_of_it(
    hosts: list[str], network: str
) -> None:
    assert gangs.network(far(*hosts)) == network


def far_line(gang: Gang) -> list[str]:
    environ = {tags.DEPLOYMENT: "gang-test", tags.NODE: "n1"}
    (leftovers.make("gang-test", "n1") / "rsh").touch()
    try:
        return mpirun.build(3, ["relion"], gang=gang, environ=environ, uid=os.geteuid())
    finally:
        rundir.remove(os.geteuid(), "gang-test", "n1")


def test_a_gang_over_machines_never_resolves_a_name_and_uses_shared_memory_inside_of_each() -> None:
    line = far_line(far("10.1.2.3", "10.1.2.4"))
    assert line[line.index("--host") + 1] == "localhost:2,n2:1"
    assert line[line.index("btl") + 1] == "self,vader,tcp"
    assert line[line.index("if_base_do_not_resolve") + 1] == "1"
    for option in ("oob_tcp_if_include", "btl_tcp_if_include"):
        assert line.count(option) == 1
        assert line[line.index(option) + 1] == "10.1.2.0/29"
    assert line[line.index("oob_tcp_keepalive_time") + 1] == "5"
    assert KEY not in " ".join(line)


def test_nodes_of_one_machine_share_no_memory_though_they_have_addresses() -> None:
    line = far_line(far("10.1.2.3", "10.1.2.3"))
    assert line[line.index("btl") + 1] == "self,tcp"


def test_another_number_of_ranks_keeps_addresses_and_key() -> None:
    gang = far("10.1.2.3", "10.1.2.4").with_ranks(5)
    assert [member.slots for member in gang.members] == [3, 2]
    assert gang.address("n2") == "10.1.2.4:4000"
    assert gang.key == KEY
    assert gangs.from_json(gangs.to_json(gang), where="here") == gang


@pytest.mark.parametrize("address", ["host:1", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "::1:5"])
def test_an_address_is_four_numbers_and_a_port(address: str) -> None:
    with pytest.raises(ConfigError, match=r"here nodes\[0\]: .* is not a\.b\.c\.d:port"):
        gangs.from_json({"nodes": [{"name": "n1", "slots": 1, "address": address}]}, where="here")


@pytest.mark.parametrize("argv", [[], ["-np"], ["-np", "3"], ["-np", "0", "x"], ["relion", "-np"]])
def test_another_call_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="-np N COMMAND"):
        mpirun.parse(argv)


def test_an_outer_mpi_run_leaves_no_trace() -> None:
    environ = {"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0", "PATH": "/bin"}
    assert tags.without_mpi(environ) == {"PATH": "/bin"}
