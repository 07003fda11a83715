"""The site's tables: what is wrong is named."""

from collections.abc import Mapping

import pytest

from scsched.cluster import registry
from scsched.cluster.batch import slurm
from scsched.cluster.pools import Pool
from scsched.steps.errors import ConfigError
from tests.cluster.batch.conftest import pool

TABLE: Mapping[str, object] = {"kind": "slurm", "python": "/opt/scsched/bin/python"}
SPOT = pool()


@pytest.mark.parametrize(
    ("table", "of", "says"),
    [
        ({"kind": "slurm"}, SPOT, "provider.home: python is missing"),
        ({**TABLE, "python": "python3"}, SPOT, "provider.home.python: write an absolute path"),
        ({**TABLE, "dead_man_s": "1"}, SPOT, "provider.home.dead_man_s: '1' is no int"),
        ({**TABLE, "dead_man_s": 0}, SPOT, "provider.home: dead_man_s"),
        ({**TABLE, "region": "x"}, SPOT, "provider.home: unknown key region"),
        (TABLE, pool(options={}), "pool spot: partition is missing"),
        (TABLE, pool(options={"partition": "spot", "image": "x"}), "pool spot: unknown key image"),
        (TABLE, pool(options={"partition": "a b"}), "pool spot: 'a b' has a space"),
        (TABLE, pool(options={"partition": "a", "time": "1 day"}), "pool spot: time '1 day'"),
        (TABLE, pool(options={"partition": "a", "exclusive": 1}), "pool spot.exclusive: 1 is no"),
        (TABLE, pool(options={"partition": "a", "directives": "-x"}), "pool spot.directives"),
        (TABLE, pool(options={"partition": "a", "directives": ["a\nb"]}), "pool spot: a directive"),
        (TABLE, pool(types=("big",)), "pool spot: a batch system has no types or zones"),
    ],
)
def test_a_wrong_key_is_named(table: Mapping[str, object], of: Pool, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slurm.check("home", table, [of])
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("time", ["30", "24:00:00", "2-00:00:00", "10:00"])
def test_slurms_times_are_taken(time: str) -> None:
    slurm.check("home", TABLE, [pool(options={"partition": "spot", "time": time})])


def test_the_registry_makes_it_from_the_sites_tables() -> None:
    of = pool()
    registry.check({"home": TABLE}, [of])
    made = registry.make({"home": TABLE}, deployment="d", pools=[of])
    assert isinstance(made["home"], slurm.SlurmProvider)
    assert made["home"].traits.remote


@pytest.mark.parametrize("kind", ["pbs", "sge", "lsf", "htcondor"])
def test_what_is_not_proven_says_so_until_the_site_knows(kind: str) -> None:
    table = {**TABLE, "kind": kind}
    with pytest.raises(ConfigError, match=f"{kind} is proven as far as its job script") as caught:
        registry.check({"home": table}, [pool()])
    assert "unproven = true" in (caught.value.hint or "")
    registry.check({"home": {**table, "unproven": True}}, [pool()])
