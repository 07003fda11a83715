"""The tables of the configuration: each wrong key is named."""

from dataclasses import replace
from decimal import Decimal

import pytest

from scsched.cluster import registry
from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.ec2 import site as sites
from scsched.cluster.pools import Market
from scsched.steps.errors import ConfigError
from tests.cluster.ec2.rig import PLAIN, pool

TWO = {"us-east-1a": "subnet-0a1b2c3d", "us-east-1b": "subnet-0a1b2c3e"}


def test_the_registry_finds_ec2() -> None:
    registry.check({"box": PLAIN}, [pool()])
    made = registry.make({"box": PLAIN}, deployment="d", pools=[pool()])
    assert made["box"].traits.remote


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("region", None),
        ("region", "mars"),
        ("python", None),
        ("python", "python3"),
        ("python", "/opt/a python"),
        ("image", "debian"),
        ("security_groups", None),
        ("security_groups", []),
        ("security_groups", ["default"]),
        ("security_groups", "sg-0a1b2c3d"),
        ("subnets", None),
        ("subnets", {}),
        ("subnets", {"us-east-1a": "the first"}),
        ("subnets", {"us-west-2a": "subnet-0a1b2c3d"}),
        ("subnets", ["subnet-0a1b2c3d"]),
        ("disk_gib", 0),
        ("disk_gib", "50"),
        ("disk_gib", True),
        ("public_ip", "yes"),
        ("interruption_queue", "my-queue"),
        ("scratch", "scratch"),
        ("key_name", ""),
        ("secret_access_key", "x"),
    ],
)
def test_a_wrong_key_is_named(key: str, value: object) -> None:
    table = {**PLAIN, key: value}
    if value is None:
        del table[key]
    with pytest.raises(ConfigError, match=rf"^provider\.aws\.{key}: "):
        ec2.check("aws", table, [])


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("types", {"types": ()}),
        ("types", {"types": ("huge",)}),
        ("zones", {"zones": ("us-east-1f",)}),
        ("zones", {"zones": ()}),
        ("image", {"options": {"image": "debian"}}),
        ("placement_group", {"options": {"placement_group": 1}}),
        ("placement_group", {"options": {"placement_group": " close"}}),
        ("flavour", {"options": {"flavour": "x"}}),
        ("max_spot_price", {"options": {"max_spot_price": "cheap"}}),
        ("max_spot_price", {"options": {"max_spot_price": -1}}),
        ("max_spot_price", {"options": {"max_spot_price": True}}),
        ("max_spot_price", {"options": {"max_spot_price": float("nan")}}),
        ("max_spot_price", {"options": {"max_spot_price": 1}, "market": Market.ON_DEMAND}),
        ("usd_per_hour", {"market": Market.ON_DEMAND}),
    ],
)
def test_a_wrong_key_of_a_pool_is_named(key: str, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"^pool p\.{key}: "):
        ec2.check("aws", {**PLAIN, "subnets": TWO}, [pool(**changes)])


@pytest.mark.parametrize("prices", [{"c6i.large": "0.1"}, {"c6i.large": "0.1", "m5.large": "0"}])
def test_a_type_on_demand_without_a_price_is_named(prices: dict[str, str]) -> None:
    """The least price of the table would be taken for it."""
    told = {kind: Decimal(price) for kind, price in prices.items()}
    kinds = {"types": ("c6i.large", "m5.large"), "usd_per_hour": Decimal("0.1"), "prices": told}
    ec2.check("aws", PLAIN, [pool(**kinds)])
    with pytest.raises(ConfigError, match=r"^pool p\.usd_per_hour: no price for m5\.large; "):
        ec2.check("aws", PLAIN, [pool(**kinds, market=Market.ON_DEMAND)])
    whole = {**kinds, "prices": {**told, "m5.large": Decimal("0.2")}}
    ec2.check("aws", PLAIN, [pool(**whole, market=Market.ON_DEMAND)])


@pytest.mark.parametrize(
    "kind", ["t2.micro", "t3a.large", "t4g.xlarge", "m7i-flex.large", "mac2-m2.metal", "m3.large"]
)
def test_a_type_that_is_never_near_others_is_refused_in_a_placement_group(kind: str) -> None:
    mixed = pool(types=("c6i.large", kind), options={"placement_group": "close"})
    with pytest.raises(ConfigError, match=rf"^pool p\.placement_group: {kind} cannot"):
        ec2.check("aws", PLAIN, [mixed])
    with pytest.raises(ConfigError, match=rf"^pool p\.placement_group: {kind} cannot"):
        ec2.check("aws", {**PLAIN, "placement_group": "close"}, [pool(types=(kind,))])
    ec2.check("aws", PLAIN, [pool(types=(kind,))])


def test_a_placement_group_is_in_one_zone() -> None:
    close = pool(types=("c6i.large",), options={"placement_group": "close"})
    ec2.check("aws", PLAIN, [close])
    with pytest.raises(ConfigError, match=r"^pool p\.one_zone: "):
        ec2.check("aws", PLAIN, [replace(close, one_zone=False)])


def test_a_pool_may_do_without_the_placement_group_of_its_site() -> None:
    table = {**PLAIN, "placement_group": "close"}
    without = pool(types=("t3.large",), options={"placement_group": ""})
    ec2.check("aws", table, [without])
    assert not sites.for_pool(sites.read("aws", table), without).placement_group


def test_which_types_can_be_in_a_cluster_placement_group_is_as_ec2_says() -> None:
    """moto has the answers of DescribeInstanceTypes of the real one."""
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    can = {
        kind: "cluster" in told.get("PlacementGroupInfo", {}).get("SupportedStrategies", ())
        for kind, told in INSTANCE_TYPES.items()
    }
    assert len(can) > 1000
    assert len(set(can.values())) == 2
    wrong = [
        kind for kind, good in can.items() if bool(sites._NEVER_CLUSTERED.fullmatch(kind)) is good
    ]
    assert wrong == []


def test_an_image_must_be_somewhere() -> None:
    table = {key: value for key, value in PLAIN.items() if key != "image"}
    with pytest.raises(ConfigError, match="image"):
        ec2.check("aws", table, [pool()])
    ec2.check("aws", table, [pool(options={"image": "ami-0a1b2c3d"})])


def test_a_pool_without_zones_uses_the_only_subnet() -> None:
    ec2.check("aws", PLAIN, [pool(zones=())])
    site = sites.read("aws", PLAIN)
    assert sites.subnet(site, pool(zones=()).candidates()[0]) == "subnet-0a1b2c3d"


def test_a_check_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of every command that reads the configuration."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    ec2.from_config("aws", PLAIN, deployment="d", pools=[pool()])
