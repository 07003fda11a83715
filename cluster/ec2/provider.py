"""Nodes on EC2, spot or on-demand.

    launch ─────► RunInstances, one a gang, all or none       through dask-cloudprovider, `workers`
                  client token = gang, tags at birth
    list ───────► DescribeInstances by the deployment's tag   through boto3, as all that follows
    terminate ──► the ids which EC2 lists for these tokens
    notices ────► an SQS queue, if there is one
    prices ─────► DescribeSpotPriceHistory

A token is the gang's tag and the instance's index in its launch, both given at birth, so nothing
has to be remembered, and nothing is ever found by name or address.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

from scsched.cluster import image
from scsched.cluster.ec2 import errors, instances
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.clients import Clients
from scsched.cluster.ec2.ear import Ear
from scsched.cluster.ec2.errors import translated
from scsched.cluster.ec2.instances import DEPLOYMENT, GANG, Instance
from scsched.cluster.ec2.launching import Launcher
from scsched.cluster.ec2.site import Site
from scsched.cluster.health import Finding
from scsched.cluster.pools import Candidate, Market, Pool
from scsched.cluster.provider import (
    Launched,
    LaunchRequest,
    Notice,
    Price,
    ProviderError,
    Refused,
    Seen,
    Traits,
    by_gang,
    gang_of,
    in_order,
)

for _library in ("boto3", "aiobotocore", "dask_cloudprovider"):
    # Imported where they are used, since they take seconds; looked for here, where it is reported.
    if find_spec(_library) is None:
        raise ModuleNotFoundError(f"No module named {_library!r}", name=_library)

_FILTER_VALUES = 200
"""https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html"""
_PAGE = 1000
_LIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
_PRODUCT = "Linux/UNIX"
_GONE = "InvalidInstanceID.NotFound"


class Ec2Provider:
    """Instances of one deployment in one region; may be used from any thread."""

    traits = Traits(remote=True, listing_lag_s=60.0, stranger_grace_s=300.0, tells_spot_prices=True)

    def __init__(self, site: Site, deployment: str) -> None:
        self.site = site
        self.clients = Clients(site.region)
        self._deployment = deployment
        self._launcher = Launcher(site, deployment, self.clients, self._gang)
        self._ear = Ear(self.clients, site.interruption_queue) if site.interruption_queue else None
        self._hearing = threading.Lock()

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        """See `Provider.launch`; one call a gang."""
        gangs = by_gang(requests)
        return in_order(
            requests, (answer for gang in gangs for answer in self._launcher.launch(gang))
        )

    def list(self) -> tuple[Seen, ...]:
        """See `Provider.list`; one call, paged."""
        return tuple(one.seen for one in self._described("list of instances"))

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`."""
        wanted = frozenset(tokens)
        gangs = sorted({gang_of(token) for token in tokens})
        filters = [_filter("instance-state-name", _LIVE)]
        ids = [
            one.instance_id
            for part in _parts(gangs, _FILTER_VALUES)
            for one in self._described("terminate", *filters, _filter(f"tag:{GANG}", part))
            if one.seen.token in wanted
        ]
        strangers = [token for token in tokens if token.startswith("i-")]
        for part in _parts(strangers, _FILTER_VALUES):
            found = self._described("terminate", *filters, _filter("instance-id", part))
            ids += [one.instance_id for one in found if not one.gang]
        for part in _parts(ids, _PAGE):
            self._end(part)

    def notices(self) -> tuple[Notice, ...]:
        """See `Provider.notices`; none without a queue, whose messages are told once or twice."""
        if self._ear is None:
            return ()
        with self._hearing:
            heard = self._ear.hear(datetime.now(UTC))
        if not heard:
            return ()
        found = [
            one
            for part in _parts(sorted(heard), _FILTER_VALUES)
            for one in self._described("notices", _filter("instance-id", part))
        ]
        return tuple(Notice(one.seen.token, heard[one.instance_id]) for one in found if one.is_up)

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        """See `Provider.prices`: of the spot market; for on-demand the pools' own hold."""
        spot = [pool for pool in pools if pool.market is Market.SPOT]
        wanted = {candidate for pool in spot for candidate in pool.candidates()}
        if not wanted:
            return ()
        zones = sorted({one.zone for one in wanted if one.zone} or self.site.subnets)
        with translated("spot prices"):
            pages = (
                self.clients.of("ec2")
                .get_paginator("describe_spot_price_history")
                .paginate(
                    InstanceTypes=sorted({one.kind for one in wanted}),
                    ProductDescriptions=[_PRODUCT],
                    StartTime=since,
                    Filters=[_filter("availability-zone", zones)],
                )
            )
            points = [_price(point) for page in pages for point in page["SpotPriceHistory"]]
        found = [one for point in points for one in _of_pools(point, wanted)]
        return tuple(sorted(found, key=lambda one: one.since))

    def _end(self, ids: Sequence[str]) -> None:
        ec2 = self.clients.of("ec2")
        try:
            with translated(f"terminate {len(ids)} instances"):
                ec2.terminate_instances(InstanceIds=list(ids))
        except ProviderError as exc:
            if errors.code_of(exc) != _GONE:
                raise
            if len(ids) > 1:  # one that is gone makes EC2 end none of them
                for one in ids:
                    self._end([one])

    def _gang(self, gang: str) -> Sequence[Instance]:
        return self._described(f"look for gang {gang}", _filter(f"tag:{GANG}", [gang]))

    def _described(self, doing: str, *filters: Mapping[str, object]) -> Sequence[Instance]:
        """Instances with our deployment's tag."""
        ours = _filter(f"tag:{DEPLOYMENT}", [self._deployment])
        with translated(doing):
            pages = (
                self.clients.of("ec2")
                .get_paginator("describe_instances")
                .paginate(Filters=[ours, *filters], PaginationConfig={"PageSize": _PAGE})
            )
            return [
                instances.read(one)
                for page in pages
                for reservation in page["Reservations"]
                for one in reservation["Instances"]
            ]


def check(name: str, options: Mapping[str, object], pools: Sequence[Pool]) -> None:
    """:raises ConfigError: names the table and key that is wrong. Asks nobody."""
    site = sites.read(name, options)
    for pool in pools:
        sites.check_pool(site, pool)


def from_config(
    name: str, options: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Ec2Provider:
    """:raises ConfigError: as `check`."""
    check(name, options, pools)
    return Ec2Provider(sites.read(name, options), deployment)


def policy(
    name: str,
    options: Mapping[str, object],
    *,
    deployment: str,
    pools: Sequence[Pool],
    account: str,
) -> Mapping[str, object]:
    """The least rights that the broker needs, as an IAM policy."""
    from scsched.cluster.ec2 import policy as policies

    return policies.least(sites.read(name, options), pools, deployment=deployment, account=account)


def image_recipe(name: str, options: Mapping[str, object], *, scipion_python: str) -> str:
    """A shell script that makes a fresh Debian 12 machine ready to be made an image of."""
    site = sites.read(name, options)
    return image.recipe(site.python, scipion_python=scipion_python, keep_sshd=bool(site.key_name))


def examine(
    name: str, options: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterable[Finding]:
    """What the account has and lacks for these pools; asks AWS, changes nothing."""
    from scsched.cluster.ec2 import health

    site = sites.read(name, options)
    return health.examine(site, pools, deployment=deployment, now=datetime.now(UTC))


def _filter(name: str, values: Iterable[str]) -> Mapping[str, object]:
    return {"Name": name, "Values": list(values)}


def _parts(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (values[at : at + size] for at in range(0, len(values), size))


# Any: a point as botocore has it.
def _price(point: Mapping[str, Any]) -> Price:
    return Price(
        candidate=Candidate(point["InstanceType"], point["AvailabilityZone"]),
        market=Market.SPOT,
        usd_per_hour=Decimal(point["SpotPrice"]),
        since=point["Timestamp"].astimezone(UTC),
    )


def _of_pools(price: Price, wanted: Iterable[Candidate]) -> Iterable[Price]:
    """The price for each candidate that it is of; one without a zone takes that of the only one."""
    kind, zone = price.candidate.kind, price.candidate.zone
    for candidate in (Candidate(kind, zone), Candidate(kind)):
        if candidate in wanted:
            yield Price(candidate, price.market, price.usd_per_hour, price.since)
