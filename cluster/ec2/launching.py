"""One gang's launch: what is asked of EC2, and what its answer means for each token."""

import threading
import time
from collections.abc import Callable, Sequence

from scsched.cluster.ec2 import errors, instances, request
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.clients import Clients
from scsched.cluster.ec2.errors import translated
from scsched.cluster.ec2.groups import openings
from scsched.cluster.ec2.instances import Instance
from scsched.cluster.ec2.request import Launch
from scsched.cluster.ec2.site import Site
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Refused,
    Unreachable,
    gang_of,
)

Answers = Sequence[Launched | Refused]
Look = Callable[[str], Sequence[Instance]]
"""What EC2 lists of a gang."""
_LOOKED_FOR_S = 600.0
_USED_TOKEN = frozenset({"IdempotentInstanceTerminated", "IdempotentParameterMismatch"})


class Launcher:
    """Remembers of EC2 only what was looked up: the images' root devices, the groups' rules."""

    def __init__(self, site: Site, deployment: str, clients: Clients, look: Look) -> None:
        self._site = site
        self._deployment = deployment
        self._clients = clients
        self._look = look
        self._lock = threading.Lock()
        self._devices: dict[str, str] = {}
        self._closed_until = 0.0

    def launch(self, requests: Sequence[LaunchRequest]) -> Answers:
        """Of one gang: all or none; of a part of a gang only what is there already."""
        try:
            request.check(requests, self._deployment)
            if not request.is_whole(requests):
                return self._by_sight(requests, BadRequest(f"{_what(requests)}: not a whole gang"))
            return answers(requests, self._run(requests))
        except ProviderError as exc:
            if errors.code_of(exc) in _USED_TOKEN:
                return self._by_sight(requests, exc)
            return [Refused(one.token, exc) for one in requests]

    def _run(self, requests: Sequence[LaunchRequest]) -> Sequence[Instance]:
        asked = self.prepared(requests)
        # dask-cloudprovider takes seconds to import.
        from scsched.cluster.ec2 import workers

        with translated(_what(requests)):
            made = [instances.read(one, gang=asked.gang) for one in workers.launch(asked)]
        if len({one.seen.token for one in made}) < len(made):
            raise self._unordered(made)
        return made

    def _unordered(self, made: Sequence[Instance]) -> ProviderError:
        """They cannot tell their places in the gang, so none of them is of use: all are ended."""
        ids = [one.instance_id for one in made]
        with translated("end a gang without an order"):
            self._clients.of("ec2").terminate_instances(InstanceIds=ids)
        return BadRequest(
            f"EC2 gave the same ami-launch-index to several machines of one launch: "
            f"{', '.join(ids)}; they were ended",
            hint="use pools of one node a step here, or on-demand machines for gangs",
        )

    def prepared(self, requests: Sequence[LaunchRequest]) -> Launch:
        """The launch, once the site's groups are seen to be closed and the image to exist.

        :raises ProviderError: they are not, or EC2 does not tell.
        """
        with self._lock:
            self._check_groups()
            mine = sites.for_pool(self._site, requests[0].pool)
            return Launch(self._site, requests, self._root_device(mine.image))

    def _check_groups(self) -> None:
        if time.monotonic() < self._closed_until:
            return
        with translated("look at the security groups"):
            found = self._clients.of("ec2").describe_security_groups(
                GroupIds=list(self._site.security_groups)
            )
        if wide := openings(found["SecurityGroups"]):
            raise BadRequest(
                f"{wide[0]}: nothing is launched into a group that the world can reach",
                hint="let in the submission host and the group itself only",
            )
        self._closed_until = time.monotonic() + _LOOKED_FOR_S

    def _root_device(self, image: str) -> str:
        if self._site.root_device:
            return self._site.root_device
        if image not in self._devices:
            with translated(f"look at image {image}"):
                found = self._clients.of("ec2").describe_images(ImageIds=[image])["Images"]
            if not found or not found[0].get("RootDeviceName"):
                raise BadRequest(f"image {image}: not found, or without a root volume")
            self._devices[image] = str(found[0]["RootDeviceName"])
        return self._devices[image]

    def _by_sight(self, requests: Sequence[LaunchRequest], error: ProviderError) -> Answers:
        """The nodes that are up, whatever they were launched with; `error` for the others."""
        bad = error if isinstance(error, BadRequest) else BadRequest(str(error))
        try:
            listed = self._look(gang_of(requests[0].token))
        except ProviderError as exc:
            unknown = Unreachable(f"{bad}; what is there cannot be seen: {exc}")
            return [Refused(one.token, unknown) for one in requests]
        up = {one.seen.token: one for one in listed if one.is_up}
        return [
            _launched(one.token, up[one.token]) if one.token in up else Refused(one.token, bad)
            for one in requests
        ]


def answers(requests: Sequence[LaunchRequest], made: Sequence[Instance]) -> Answers:
    """What RunInstances' answer says of each token; a repeat may tell of instances that ended."""
    found = {one.seen.token: one for one in made}
    return [_answer(one, found.get(one.token)) for one in requests]


def _answer(asked: LaunchRequest, instance: Instance | None) -> Launched | Refused:
    if instance is None:
        return Refused(
            asked.token, Unreachable(f"{asked.name}: missing in AWS's answer; repeat it")
        )
    if instance.is_up:
        return _launched(asked.token, instance)
    reason = instance.seen.reason
    known = errors.codes().get(reason.rpartition(".")[2], BadRequest)
    error = known if known in (NoCapacity, QuotaExceeded) else BadRequest
    return Refused(
        asked.token,
        error(f"{asked.name}: its node has ended {reason}".rstrip(), hint="use a new token"),
    )


def _launched(token: str, instance: Instance) -> Launched:
    return Launched(token, instance.instance_id, instance.seen.launched_at)


def _what(requests: Sequence[LaunchRequest]) -> str:
    first = requests[0]
    return f"launch of {len(requests)} x {first.candidate} for pool {first.pool.name}"
