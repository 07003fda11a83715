"""The `[provider.NAME]` table of kind ec2, and what its pools may add to it.

    [provider.aws]
    kind = "ec2"
    region = "us-east-1"
    image = "ami-..."
    python = "/opt/scsched/bin/python"
    security_groups = ["sg-..."]
    subnets = { us-east-1a = "subnet-...", us-east-1b = "subnet-..." }

Credentials come as boto3 finds them (instance role, SSO, environment), never from here. Another
endpoint is named by AWS_ENDPOINT_URL alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation

from scsched.cluster.pools import Candidate, Market, Pool
from scsched.cluster.provider import BadRequest
from scsched.cluster.table import Table

_IMAGE = re.compile(r"ami-[0-9a-f]{8,17}")
_SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}")
_GROUP = re.compile(r"sg-[0-9a-f]{8,17}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")
_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")
_WORD = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_PATH = re.compile(r"/[\x21-\x7e]*")
_NAME_OR_NONE = re.compile(rf"({_WORD.pattern})?")
_NEVER_CLUSTERED = re.compile(r"(t[0-9][a-z0-9]*|[a-z0-9]+-flex|mac[a-z0-9-]*|[cm]1|m[23]|vt1)\..*")
"""Types without the strategy `cluster` in `PlacementGroupInfo` of DescribeInstanceTypes.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-groups.html
"""
_QUEUE = re.compile(r"https?://[^\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where and as what instances are launched."""

    region: str
    subnets: Mapping[str, str]
    """By zone."""
    security_groups: tuple[str, ...]
    """The site's own; scsched makes none."""
    python: str
    """Of scsched's environment in the image."""
    image: str = ""
    """For pools that name none."""
    scratch: str = "/var/tmp"  # noqa: S108 - a directory on the node
    disk_gib: int = 50
    root_device: str = ""
    """Device name of the image's root volume; empty: the image is asked."""
    public_ip: bool = False
    iam_instance_profile: str = ""
    """Nodes need none: what it allows, every job on them may do."""
    iam_role: str = ""
    """Of the instance profile, for the policy that `cloud policy` prints; empty: named as it is."""
    key_name: str = ""
    interruption_queue: str = ""
    """URL of an SQS queue of this deployment alone, fed by EventBridge."""
    placement_group: str = ""
    """The site's own, of strategy cluster; for pools that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSite:
    """What holds for one pool: its own options before the site's."""

    image: str
    disk_gib: int
    placement_group: str
    """Empty: none, then all that holds is that a gang is in one zone."""
    max_spot_price: Decimal | None = None
    """US dollars an hour; None: up to the on-demand price."""


class _Table(Table):
    """With the forms that this kind's keys have."""

    def text(self, key: str, form: re.Pattern[str], like: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise self.refuse(key, f"missing; write {like}")
        if value == default and key not in self.values:
            return str(default)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self.refuse(key, f"{value!r} is not like {like}")
        return value


def read(name: str, options: Mapping[str, object]) -> Site:
    """:raises ConfigError: names the key that is wrong."""
    table = _Table(f"provider.{name}", options)
    table.only([found.name for found in fields(Site)] + ["kind"])
    region = table.text("region", _REGION, "us-east-1")
    return Site(
        region=region,
        subnets=_subnets(table, region),
        security_groups=_groups(table),
        python=table.text("python", _PATH, "/opt/scsched/bin/python"),
        image=table.text("image", _IMAGE, "ami-0123456789abcdef0", ""),
        scratch=table.text("scratch", _PATH, "/var/tmp", "/var/tmp"),  # noqa: S108
        disk_gib=table.gib("disk_gib", 50, least=1),
        root_device=table.text("root_device", _PATH, "/dev/xvda", ""),
        public_ip=table.yes("public_ip"),
        iam_instance_profile=table.text("iam_instance_profile", _WORD, "a name or an ARN", ""),
        iam_role=table.text("iam_role", _WORD, "the name of the profile's role", ""),
        key_name=table.text("key_name", _WORD, "the name of a key pair", ""),
        interruption_queue=table.text("interruption_queue", _QUEUE, "the URL of a queue", ""),
        placement_group=table.text("placement_group", _WORD, "the name of a placement group", ""),
    )


def for_pool(site: Site, pool: Pool) -> PoolSite:
    """:raises ConfigError: names the pool's key that is wrong."""
    table = _Table(f"pool {pool.name}", pool.options)
    table.only([found.name for found in fields(PoolSite)])
    image = table.text("image", _IMAGE, "ami-0123456789abcdef0", site.image)
    if not image:
        raise table.refuse("image", "missing here and in the provider's table")
    return PoolSite(
        image=image,
        disk_gib=table.gib("disk_gib", site.disk_gib, least=1),
        placement_group=table.text(
            "placement_group", _NAME_OR_NONE, "the name of a placement group", site.placement_group
        ),
        max_spot_price=_price(table, pool),
    )


def check_pool(site: Site, pool: Pool) -> None:
    """:raises ConfigError: the pool cannot be launched at this site; names its key."""
    group = for_pool(site, pool).placement_group
    table = _Table(f"pool {pool.name}", {})
    for kind in pool.types:
        if not _TYPE.fullmatch(kind):
            raise table.refuse("types", f"{kind!r} is not like c6i.4xlarge")
        if group and _NEVER_CLUSTERED.fullmatch(kind):
            raise table.refuse(
                "placement_group",
                f"{kind} cannot be in a cluster placement group",
                hint='choose other types, or write placement_group = ""',
            )
    if not pool.types:
        raise table.refuse("types", "missing; name instance types, the preferred first")
    for zone in pool.zones:
        if zone not in site.subnets:
            known = ", ".join(sorted(site.subnets))
            raise table.refuse("zones", f"no subnet in {zone}; the provider has {known}")
    if pool.market is Market.ON_DEMAND and (free := _unpriced(pool)):
        raise table.refuse(
            "usd_per_hour",
            f"no price for {', '.join(free)}; EC2 tells none on demand, so receipts and caps "
            "would be wrong",
        )
    if group and not pool.one_zone:
        raise table.refuse("one_zone", "false, but a placement group is in one zone")
    if not pool.zones and len(site.subnets) > 1:
        raise table.refuse("zones", f"missing; choose of {', '.join(sorted(site.subnets))}")


def _unpriced(pool: Pool) -> list[str]:
    """Types that the configuration gives no price, or the price 0."""
    return [kind for kind in pool.types if not (pool.prices or {kind: pool.usd_per_hour}).get(kind)]


def subnet(site: Site, candidate: Candidate) -> str:
    """The subnet of the candidate's zone; of the only zone where it names none.

    :raises BadRequest: there is none.
    """
    if not candidate.zone and len(site.subnets) == 1:
        return next(iter(site.subnets.values()))
    if candidate.zone not in site.subnets:
        known = ", ".join(sorted(site.subnets))
        raise BadRequest(f"no subnet is configured in zone {candidate.zone!r}; known: {known}")
    return site.subnets[candidate.zone]


def _subnets(table: _Table, region: str) -> Mapping[str, str]:
    found = table.values.get("subnets")
    if not isinstance(found, Mapping) or not found:
        raise table.refuse("subnets", f'missing; write {{ {region}a = "subnet-..." }}')
    for zone, name in found.items():
        if not str(zone).startswith(region) or zone == region:
            raise table.refuse("subnets", f"{zone!r} is not a zone of {region}")
        if not isinstance(name, str) or not _SUBNET.fullmatch(name):
            raise table.refuse("subnets", f"{name!r} is not like subnet-0123456789abcdef0")
    return dict(found)


def _groups(table: _Table) -> tuple[str, ...]:
    found = table.values.get("security_groups")
    if not isinstance(found, list | tuple) or not found:
        raise table.refuse(
            "security_groups",
            "missing; scsched makes none",
            hint="make one that lets the nodes reach each other and the submission host",
        )
    for name in found:
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            raise table.refuse("security_groups", f"{name!r} is not like sg-0123456789abcdef0")
    return tuple(found)


def _price(table: _Table, pool: Pool) -> Decimal | None:
    value = table.values.get("max_spot_price")
    if value is None:
        return None
    if pool.market is not Market.SPOT:
        raise table.refuse("max_spot_price", "is for pools of the spot market")
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        price = Decimal(-1)
    if isinstance(value, bool) or not price.is_finite() or price <= 0:
        raise table.refuse("max_spot_price", f"{value!r}; write US dollars an hour, like 0.35")
    return price
