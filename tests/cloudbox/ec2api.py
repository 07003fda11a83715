"""The EC2 endpoint: moto's, with what EC2 does and moto does not, and with the faults that are set.

Every call to EC2 passes `Endpoint`: faults may refuse it, hold it up, or let it be done and then
drop the connection. What moto may not do here, since it would make up addresses of other people's
machines, is refused.
"""

import base64
import contextvars
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.models import elastic_network_interfaces, instances
from moto.ec2.models.instances import InstanceBackend, Reservation
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.responses.general import General
from moto.ec2.responses.spot_instances import SpotInstances
from moto.ec2.utils import filter_reservations

from tests.cloudbox import launching, placement
from tests.cloudbox.cloud import OWN_FILTERS, Cloud
from tests.cloudbox.faults import Call, Fault, Refusal
from tests.cloudbox.launching import LaunchCall
from tests.cloudbox.world import ZONES

Environ = dict[str, Any]
StartResponse = Callable[..., object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

EC2_VERSION = "2016-11-15"
DONE_HERE = frozenset(
    {
        "RunInstances",
        "TerminateInstances",
        "CreateTags",
        "DeleteTags",
        *placement.ACTIONS,
        "CreateSecurityGroup",
        "CreateKeyPair",
        "DeleteKeyPair",
        "ImportKeyPair",
        "AuthorizeSecurityGroupIngress",
        "AuthorizeSecurityGroupEgress",
        "CreateLaunchTemplate",
        "DeleteLaunchTemplate",
        "ModifyInstanceAttribute",
        "ModifyInstanceMetadataOptions",
    }
)
"""Besides Describe... and Get...: all else is refused."""

_launch: contextvars.ContextVar[tuple[LaunchCall, int, Reservation | None]] = (
    contextvars.ContextVar("launch")
)


def patch(cloud: Cloud, console: Callable[[str], str]) -> None:
    """Makes moto in this process serve this cloud, and no other."""
    run_instances = InstanceBackend.run_instances

    def run(
        self: InstanceBackend, image: str, count: int, data: Any, groups: Any, **kw: Any
    ) -> Any:
        launch, granted, replayed = _launch.get()
        if replayed is not None:
            return replayed
        made = run_instances(self, image, granted, data, groups, **kw)
        cloud.adopt(made, launch)
        return made

    def by_filters(self: InstanceBackend, filters: Any = None) -> Any:
        others = {key: filters[key] for key in filters or {} if key not in OWN_FILTERS}
        return filter_reservations(cloud.listed(filters), others)

    def by_ids(self: InstanceBackend, instance_ids: list[str], filters: Any = None) -> Any:
        return filter_reservations(cloud.known(instance_ids), filters or {})

    def by_user(self: InstanceBackend, instance_ids: list[str]) -> Any:
        return list(cloud.terminate(instance_ids))

    _replace(
        InstanceBackend,
        run_instances=run,
        describe_instances=by_filters,
        get_reservations_by_instance_ids=by_ids,
        terminate_instances=by_user,
    )
    _replace(SpotInstances, describe_spot_price_history=lambda self: _prices(self, cloud))
    _replace(General, get_console_output=lambda self: _console(self, console))
    _replace(elastic_network_interfaces, random_public_ip=_no_address)
    _replace(instances, random_private_ip=_no_address)
    EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.pop(
        "RunInstances.Reservation.Instances.Instance.State", None
    )


def _replace(owner: object, **parts: Callable[..., object]) -> None:
    for name, part in parts.items():
        assert hasattr(owner, name), f"moto has no {name} here any more"
        setattr(owner, name, part)


def _no_address(*_: object, **__: object) -> str:
    raise AssertionError("an address outside the box was asked for")


def _console(self: General, console: Callable[[str], str]) -> ActionResult:
    identity = self.ec2_backend.get_instance(self._get_param("InstanceId")).id
    text = base64.b64encode(console(identity).encode()).decode()
    return ActionResult(
        {
            "InstanceId": identity,
            "Timestamp": datetime.now(UTC),
            "Output": Base64EncodedString(text),
        }
    )


def _prices(self: SpotInstances, cloud: Cloud) -> ActionResult:
    now = datetime.now(UTC)
    since, until = self._get_param("StartTime"), self._get_param("EndTime")
    asked = self._get_param("InstanceTypes", []) or cloud.book.kinds()
    filters = self._filters_from_querystring()
    zone = self._get_param("AvailabilityZone")
    zones = [zone] if zone else filters.get("availability-zone", ZONES)
    for kind in asked:
        cloud.learn(kind)
    rows = [
        {
            "InstanceType": kind,
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": f"{price.usd_per_hour:f}",
            "AvailabilityZone": zone,
            "Timestamp": price.since,
        }
        for kind in asked
        for zone in zones
        for price in cloud.book.history(kind, zone, _moment(since, now), _moment(until, now))
    ]
    start = int(self._get_param("NextToken") or 0)
    size = int(self._get_param("MaxResults") or 1000)
    more = str(start + size) if start + size < len(rows) else ""
    return ActionResult({"SpotPriceHistory": rows[start : start + size], "NextToken": more})


def _moment(value: object, default: datetime) -> datetime:
    if value is None:
        return default
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class Endpoint:
    """WSGI application in front of moto's."""

    def __init__(self, inner: Application, cloud: Cloud) -> None:
        self._inner, self._cloud = inner, cloud
        self._counting = threading.Lock()
        self.calls: Counter[str] = Counter()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        form = _form(environ, body)
        call = self._call(environ, form)
        with self._counting:
            self.calls[call.action] += 1
        struck = self._cloud.faults.hit(call)
        time.sleep(sum(one.delay_s for one in struck))
        try:
            answer = self._answer(environ, form, struck)
        except Refusal as refusal:
            with self._counting:
                self.calls[refusal.code] += 1
            answer = _refused(refusal, is_form=bool(form))
        if any(one.lost_reply for one in struck):
            return self._drop(environ)
        status, headers, content = answer
        start(status, headers)
        return [content]

    def _call(self, environ: Environ, form: Mapping[str, str]) -> Call:
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        action = form.get("Action") or target
        if action != "RunInstances":
            return Call(action=action)
        market = form.get("InstanceMarketOptions.MarketType", "on-demand")
        kind = form.get("InstanceType", "")
        return Call(action=action, kind=kind, zone=self._zone(form), market=market)

    def _zone(self, form: Mapping[str, str]) -> str:
        subnet = form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId", "")
        found = self._cloud.backend.describe_subnets(filters={"subnet-id": [subnet]})
        return str(found[0].availability_zone) if found else ""

    def _answer(
        self, environ: Environ, form: Mapping[str, str], struck: Sequence[Fault]
    ) -> "Answered":
        for fault in struck:
            if fault.code:
                raise Refusal(fault.code, fault.message)
        if form.get("Version") != EC2_VERSION:
            return _ask(self._inner, environ)
        action = form["Action"]
        if action not in DONE_HERE and not action.startswith(("Describe", "Get")):
            raise Refusal("UnsupportedOperation", f"{action} is not done in this box")
        with self._cloud.lock:
            if action in placement.ACTIONS:
                return _told(self._cloud.groups.answer(form, self._cloud.runs))
            try:
                self._prepare(environ, form, action)
            except ServiceException as exc:
                raise Refusal(exc.code, exc.message) from exc
            return _ask(self._inner, environ)

    def _prepare(self, environ: Environ, form: Mapping[str, str], action: str) -> None:
        if action == "RunInstances":
            launch = launching.read(form, lambda _: self._zone(form))
            self._cloud.groups.check(launch, self._cloud.runs)
            if form.get("DryRun") != "true":
                _launch.set(self._launched(launch))
        by_id = any(key.startswith("InstanceId") for key in form)
        if action == "DescribeInstances" and self._cloud.view.page_size and not by_id:
            _rewrite(environ, {**form, "MaxResults": str(self._cloud.view.page_size)})

    def _launched(self, launch: LaunchCall) -> tuple[LaunchCall, int, Reservation | None]:
        replayed = self._cloud.replayed(launch)
        if replayed is not None:
            with self._counting:
                self.calls["replayed"] += 1
            return launch, 0, replayed
        return launch, self._cloud.granted(launch), None

    def _drop(self, environ: Environ) -> Iterable[bytes]:
        with self._counting:
            self.calls["lost_reply"] += 1
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError


Answered = tuple[str, list[tuple[str, str]], bytes]


def _ask(inner: Application, environ: Environ) -> Answered:
    told: list[tuple[str, list[tuple[str, str]]]] = []
    content = b"".join(inner(environ, lambda status, headers, *_: told.append((status, headers))))
    status, headers = told[0]
    return status, headers, content


def _told(text: str) -> Answered:
    length = ("Content-Length", str(len(text.encode())))
    return "200 OK", [("Content-Type", "text/xml"), length], text.encode()


def _form(environ: Environ, body: bytes) -> dict[str, str]:
    if not environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        return {}
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def _rewrite(environ: Environ, form: Mapping[str, str]) -> None:
    body = urlencode(form).encode()
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def _refused(refusal: Refusal, *, is_form: bool) -> Answered:
    if is_form:
        text = (
            "<Response><Errors><Error>"
            f"<Code>{refusal.code}</Code><Message>{refusal.message}</Message>"
            "</Error></Errors><RequestID>cloudbox</RequestID></Response>"
        )
        kind = "text/xml"
    else:
        text = json.dumps({"__type": refusal.code, "message": refusal.message})
        kind = "application/x-amz-json-1.0"
    length = ("Content-Length", str(len(text.encode())))
    return f"{refusal.status} Refused", [("Content-Type", kind), length], text.encode()
