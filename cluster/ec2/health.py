"""What the account has and lacks for a site's pools. Asks AWS, changes nothing, starts nothing."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from scsched.cluster import catalogue
from scsched.cluster.ec2 import errors, request
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.clients import Clients, date_of
from scsched.cluster.ec2.errors import translated
from scsched.cluster.ec2.groups import openings
from scsched.cluster.ec2.request import Launch
from scsched.cluster.ec2.site import Site
from scsched.cluster.health import Finding
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import Desk, Join, LaunchRequest, Owner, ProviderError

_SKEW_S = 60.0
"""AWS refuses requests whose clock is 5 minutes off; spot deadlines are 2 minutes."""
_DRY = "DryRunOperation"
_QUOTAS = {
    ("standard", Market.ON_DEMAND): "L-1216C47A",
    ("standard", Market.SPOT): "L-34B43A08",
    ("g", Market.ON_DEMAND): "L-DB2E81BA",
    ("g", Market.SPOT): "L-3819A6DF",
    ("p", Market.ON_DEMAND): "L-417A185B",
    ("p", Market.SPOT): "L-7212CCBC",
}
"""vCPUs by family. https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html"""


_STANDARD = frozenset({"a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"})


def examine(
    site: Site, pools: Sequence[Pool], *, deployment: str, now: datetime
) -> tuple[Finding, ...]:
    """One finding per thing looked at; without credentials nothing else is asked."""
    clients = Clients(site.region)
    first = list(_credentials(clients, now))
    if not first[0].ok:
        return tuple(first)
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("security group", lambda: _groups(clients, site)),
        ("subnet", lambda: _subnets(clients, site)),
    ]
    images = sorted({sites.for_pool(site, pool).image for pool in pools})
    for image in images:
        looks.append(("image", lambda image=image: _image(clients, image)))  # type: ignore[misc]
    groups = {sites.for_pool(site, pool).placement_group for pool in pools} - {""}
    for group in sorted(groups):
        looks.append(("placement group", lambda group=group: _placement(clients, group)))  # type: ignore[misc]
    for pool in pools:
        looks.append(("launch", lambda pool=pool: _launch(clients, site, pool, deployment)))  # type: ignore[misc]
    looks.append(("quota", lambda: _quotas(clients, pools)))
    if site.interruption_queue:
        looks.append(("queue", lambda: _queue(clients, site.interruption_queue)))
    return (*first, *(one for name, look in looks for one in _safely(name, look)))


def _safely(name: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except ProviderError as exc:
        return [Finding(name, ok=False, sentence=str(exc), hint=exc.hint)]


def _credentials(clients: Clients, now: datetime) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        with translated("who am I"):
            answer = clients.of("sts").get_caller_identity()
    except ProviderError as exc:
        yield Finding("credentials", ok=False, sentence=str(exc), hint=exc.hint)
        return
    yield Finding("credentials", ok=True, sentence=f"AWS knows us as {answer['Arn']}")
    theirs = date_of(answer)
    if theirs is not None:
        # The first call takes seconds: boto3 reads its descriptions.
        skew_s = abs((now - theirs).total_seconds() + time.monotonic() - began)
        yield Finding(
            "clock",
            ok=skew_s <= _SKEW_S,
            sentence=f"this machine's clock differs from AWS's by {skew_s:.0f} s",
            hint="" if skew_s <= _SKEW_S else "let chrony or systemd-timesyncd set the clock",
        )


def _groups(clients: Clients, site: Site) -> Iterator[Finding]:
    with translated("look at the security groups"):
        found = clients.of("ec2").describe_security_groups(GroupIds=list(site.security_groups))
    wide = openings(found["SecurityGroups"])
    for sentence in wide:
        hint = "let in the submission host and the group itself only"
        yield Finding("security group", ok=False, sentence=sentence, hint=hint)
    if not wide:
        names = ", ".join(site.security_groups)
        yield Finding("security group", ok=True, sentence=f"{names}: closed to the world")


def _subnets(clients: Clients, site: Site) -> Iterator[Finding]:
    with translated("look at the subnets"):
        found = clients.of("ec2").describe_subnets(SubnetIds=list(site.subnets.values()))
    by_id = {one["SubnetId"]: one for one in found["Subnets"]}
    for zone, name in site.subnets.items():
        yield _subnet(zone, name, by_id[name])


def _subnet(zone: str, name: str, found: Any) -> Finding:
    real, free = found["AvailabilityZone"], found["AvailableIpAddressCount"]
    if real != zone:
        return Finding(
            "subnet",
            ok=False,
            sentence=f"{name} is in {real}, not in {zone}",
            hint=f"put it under {real}",
        )
    if not free:
        return Finding("subnet", ok=False, sentence=f"{name} in {zone} has no free address")
    return Finding("subnet", ok=True, sentence=f"{name} in {zone}: {free} free addresses")


def _image(clients: Clients, image: str) -> Iterator[Finding]:
    with translated(f"look at image {image}"):
        found = clients.of("ec2").describe_images(ImageIds=[image])["Images"]
    state = found[0]["State"] if found else "missing"
    yield Finding(
        "image",
        ok=state == "available",
        sentence=f"{image} is {state}",
        hint="" if state == "available" else "bake one: `scsched cloud image`",
    )


def _placement(clients: Clients, group: str) -> Iterator[Finding]:
    with translated(f"look at placement group {group}"):
        answer = clients.of("ec2").describe_placement_groups(GroupNames=[group])
    found = answer["PlacementGroups"]
    state = found[0]["State"] if found else "missing"
    strategy = found[0]["Strategy"] if found else "none"
    good = (state, strategy) == ("available", "cluster")
    yield Finding(
        "placement group",
        ok=good,
        sentence=f"{group} is {state}, its strategy is {strategy}",
        hint="" if good else "name one that is available and of strategy cluster",
    )


def _launch(clients: Clients, site: Site, pool: Pool, deployment: str) -> Iterator[Finding]:
    """Whether we may launch, by a call that EC2 only pretends to do."""
    asked = request.arguments(Launch(site, [_pretended(pool, deployment)], "/dev/xvda"))
    what = f"launch for pool {pool.name}"
    try:
        with translated(what):
            clients.of("ec2").run_instances(**asked, DryRun=True)
    except ProviderError as exc:
        if errors.code_of(exc) != _DRY:
            raise
    yield Finding("launch", ok=True, sentence=f"{what}: AWS would do it")


def _pretended(pool: Pool, deployment: str) -> LaunchRequest:
    join = Join(
        scheduler_address="tls://127.0.0.1:9",
        tls_dir=Path("/"),
        work_dir=Path("/"),
        desk=Desk("127.0.0.1:9", "0" * 64),
    )
    return LaunchRequest(
        token="doctor-0",  # noqa: S106 - nothing is launched under it
        name="doctor",
        pool=pool,
        owner=Owner(uid=65534, gid=65534, username="nobody"),
        join=join,
        deployment=deployment,
        candidate=pool.candidates()[0],
        ticket="0",
    )


def _quotas(clients: Clients, pools: Sequence[Pool]) -> Iterator[Finding]:
    """The vCPUs that all pools of a family and market may use together, against the quota.

    A pool may be all of its largest type.
    """
    wanted: dict[str, int] = {}
    for pool in pools:
        for family in sorted({_family(kind) for kind in pool.types}):
            kinds = [kind for kind in pool.types if _family(kind) == family]
            code = _QUOTAS.get((family, pool.market))
            if code is None:
                sentence = f"pool {pool.name}: the quota of {', '.join(kinds)} is not looked at"
                yield Finding("quota", ok=True, sentence=sentence)
                continue
            vcpus = max(_vcpus(kind, pool) for kind in kinds)
            wanted[code] = wanted.get(code, 0) + pool.max_nodes * vcpus
    for code, vcpus in sorted(wanted.items()):
        yield _quota(clients, code, vcpus)


def _vcpus(kind: str, pool: Pool) -> int:
    """Of the type, where it is known: a pool may use less of a machine than is paid for."""
    shape = catalogue.least("ec2", (kind,))
    return shape.cores if shape else pool.cores


def _quota(clients: Clients, code: str, vcpus: int) -> Finding:
    try:
        with translated(f"quota {code}"):
            answer = clients.of("service-quotas").get_service_quota(
                ServiceCode="ec2", QuotaCode=code
            )
    except ProviderError as exc:
        return Finding("quota", ok=True, sentence=f"not told: {exc}")
    quota = answer["Quota"]
    name, value = quota.get("QuotaName", code), int(quota["Value"])
    return Finding(
        "quota",
        ok=value >= vcpus,
        sentence=f"{name}: {value} vCPUs; the pools may use {vcpus}",
        hint="" if value >= vcpus else "ask for more in Service Quotas, or lower max_nodes",
    )


def _family(kind: str) -> str:
    """As the quotas are shared out; a family of its own: its letters."""
    letters = "".join(takewhile(str.isalpha, kind))
    if letters in ("g", "gr", "vt"):
        return "g"
    return "standard" if letters in _STANDARD else letters


def _queue(clients: Clients, queue: str) -> Iterator[Finding]:
    with translated(f"look at {queue}"):
        clients.of("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    yield Finding("queue", ok=True, sentence=f"spot warnings are heard from {queue}")
