"""Launches into a placement group of the site's own, over the imaginary cloud."""

import pytest

from scsched.cluster.pools import Candidate, Pool
from scsched.cluster.provider import BadRequest, NoCapacity
from tests.cluster.ec2.rig import Rig, gang, made_group, pool

KIND = "c6i.large"
HERE, THERE = "us-east-1a", "us-east-1b"


def near(group: str) -> Pool:
    options = {"placement_group": group} if group else {}
    return pool(types=(KIND,), zones=(HERE, THERE), options=options)


@pytest.mark.parametrize("size", [1, 3])
def test_all_nodes_of_a_pool_are_launched_into_its_group(rig: Rig, size: int) -> None:
    group = made_group(rig.box)
    rig.launch(gang(size, of=near(group)))
    form = rig.recorder.sent("RunInstances")[-1]
    assert form["Placement.GroupName"] == group
    assert form["MinCount"] == str(size)


def test_without_a_group_only_the_zone_is_asked_for(rig: Rig) -> None:
    rig.launch(gang(2, of=near("")))
    form = rig.recorder.sent("RunInstances")[-1]
    assert not [key for key in form if key.startswith("Placement")]


def test_a_group_that_is_not_there_is_a_wrong_request(rig: Rig) -> None:
    for refused in rig.refusals(gang(2, of=near("never-made"))):
        assert isinstance(refused.error, BadRequest)
        assert "never-made" in str(refused.error)
        assert "scsched makes none" in refused.error.hint
    assert rig.box.up() == []


def test_a_group_in_use_in_another_zone_has_no_room_there(rig: Rig) -> None:
    """So the next candidate is asked for, which is in the zone of the group."""
    mine = near(made_group(rig.box))
    rig.launch(gang(2, of=mine, candidate=Candidate(KIND, THERE)))
    refused = rig.refusals(gang(2, of=mine, candidate=Candidate(KIND, HERE)))
    assert {type(one.error) for one in refused} == {NoCapacity}
    assert "in use in another availability zone" in str(refused[0].error)
    rig.launch(gang(2, of=mine, candidate=Candidate(KIND, THERE)))
    assert len(rig.box.up()) == 4
