"""What a test tells the box to do: one verb per POST to /cloudbox/<verb>, JSON in and out.

Below /imds/<instance>/ the box also serves the metadata of any instance, for those that are not
really there.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from tests.cloudbox import notices
from tests.cloudbox.cloud import Cloud
from tests.cloudbox.ec2api import Application, Endpoint, Environ, StartResponse
from tests.cloudbox.imds import Metadata
from tests.cloudbox.machines import Record

Words = Mapping[str, Any]


class Hosts(Protocol):
    """What can be done to machines that are really there."""

    def pid(self, instance_id: str) -> int | None: ...

    def procs(self, instance_id: str) -> list[str]: ...

    def do(self, verb: str, instance_id: str, words: Words) -> None: ...

    def console(self, instance_id: str) -> str: ...


class NoHosts:
    """Of the box whose machines are imaginary."""

    def pid(self, instance_id: str) -> int | None:
        return None

    def procs(self, instance_id: str) -> list[str]:
        return []

    def do(self, verb: str, instance_id: str, words: Words) -> None:
        raise ValueError(f"{verb}: the instances of this box are not really there")

    def console(self, instance_id: str) -> str:
        return ""


class Control:
    """WSGI application: the verbs, the metadata of instances, and behind them the cloud's API."""

    def __init__(self, cloud: Cloud, endpoint: Endpoint, hosts: Hosts, config: Words) -> None:
        self._cloud, self._endpoint, self._hosts = cloud, endpoint, hosts
        self._config = config
        self._metadata: dict[str, Metadata] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        _, area, rest = [*environ["PATH_INFO"].split("/", 2), "", ""][:3]
        if area == "cloudbox":
            return self._verb(rest, environ, start)
        if area == "imds":
            return self._imds(rest, environ, start)
        inner: Application = self._endpoint
        return inner(environ, start)

    def _verb(self, verb: str, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        words = json.loads(environ["wsgi.input"].read(length) or b"{}")
        try:
            answer, status = self._do(verb, words), "200 OK"
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as exc:
            answer, status = {"error": f"{verb} {words}: {exc!r}"}, "400 Bad Request"
        start(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _do(self, verb: str, words: Words) -> object:
        done = getattr(self, f"do_{verb}", None)
        if done is not None:
            return done(**words)
        if verb in ("freeze", "thaw", "cut", "heal", "blackhole"):
            self._hosts.do(verb, words["instance_id"], words)
            return None
        raise ValueError("no such verb")

    def _imds(self, rest: str, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        identity, _, path = rest.partition("/")
        record = self._cloud.record(identity)
        with self._lock:
            service = self._metadata.setdefault(identity, Metadata(lambda: record.metadata))
        headers = {
            key[len("HTTP_") :].lower().replace("_", "-"): value
            for key, value in environ.items()
            if key.startswith("HTTP_")
        }
        answer = service.answer(environ["REQUEST_METHOD"], f"/{path}", headers)
        start(f"{answer.status} -", [("Content-Type", "text/plain"), *answer.headers.items()])
        return [answer.body]

    def do_clear(self) -> None:
        self._cloud.clear()
        self._endpoint.calls.clear()
        self._metadata.clear()
        notices.empty_queue()

    # ------------------------------------------------------------------ seeing

    def do_config(self) -> Words:
        return self._config

    def do_instances(self, ended_within_s: float | None) -> list[Words]:
        found = self._cloud.records()
        if ended_within_s is not None:
            since = datetime.now(UTC) - timedelta(seconds=ended_within_s)
            found = [one for one in found if one.ended_at is None or one.ended_at >= since]
        return [self._shown(one) for one in found]

    def do_console(self, instance_id: str) -> str:
        return self._hosts.console(instance_id)

    def do_calls(self) -> Mapping[str, int]:
        return dict(self._endpoint.calls)

    def do_bill(self) -> Mapping[str, str]:
        return {identity: str(usd) for identity, usd in self._cloud.bill().items()}

    def _shown(self, record: Record) -> Words:
        one, interval = record.instance, record.interval
        return {
            "instance_id": one.id,
            "state": one.state,
            "kind": interval.kind,
            "zone": interval.zone,
            "spot": record.spot,
            "address": one.private_ip,
            "token": one.client_token,
            "index": one.ami_launch_index,
            "tags": {tag["key"]: tag["value"] for tag in one.get_tags()},
            "launched_at": interval.launched_at.isoformat(),
            "ended_at": interval.ended_at and interval.ended_at.isoformat(),
            "reason": one.state_reason.code,
            "pid": self._hosts.pid(one.id),
            "procs": self._hosts.procs(one.id),
        }

    # ------------------------------------------------------------------ prices and limits

    def do_price(self, kind: str, zone: str, usd: str, since: str | None = None) -> None:
        moment = datetime.fromisoformat(since) if since else datetime.now(UTC)
        self._cloud.learn(kind)
        self._cloud.book.set_spot(kind, zone, Decimal(usd), moment)

    def do_on_demand(self, kind: str, usd: str) -> None:
        self._cloud.learn(kind)
        self._cloud.book.set_on_demand(kind, Decimal(usd))

    def do_capacity(self, instances: int | None, kind: str, zone: str, market: str) -> None:
        rooms, place = self._cloud.limits.capacity, (kind, zone, market)
        rooms.pop(place, None)
        if instances is not None:
            rooms[place] = instances

    def do_quota(self, spot_instances: int | None, on_demand_vcpus: int | None) -> None:
        self._cloud.limits.spot_instances = spot_instances
        self._cloud.limits.on_demand_vcpus = on_demand_vcpus

    # ------------------------------------------------------------------ faults

    def do_fault(self, **options: object) -> int:
        return self._cloud.faults.add(options)

    def do_unfault(self, number: int) -> None:
        self._cloud.faults.remove(number)

    def do_clear_faults(self) -> None:
        self._cloud.faults.clear()

    def do_struck(self) -> Mapping[int, int]:
        return self._cloud.faults.struck()

    def do_describe_late(self, calls: int, seconds: float) -> None:
        self._cloud.view.late_calls, self._cloud.view.late_s = calls, seconds

    def do_describe_empty(self, calls: int) -> None:
        self._cloud.view.empty_calls = calls

    def do_describe_partial(self, share: float, calls: int, seed: int) -> None:
        self._cloud.view.partial(share=share, calls=calls, seed=seed)

    def do_placement_groups(self, state: str) -> None:
        self._cloud.groups.state = state

    def do_page_size(self, size: int | None) -> None:
        self._cloud.view.page_size = size

    def do_forget_after(self, seconds: float) -> None:
        self._cloud.forget_s = seconds

    # ------------------------------------------------------------------ losses

    def do_reclaim(self, instance_id: str, notice_s: float, rebalance_s: float) -> None:
        self._cloud.reclaim(instance_id, notice_s=notice_s, rebalance_s=rebalance_s)

    def do_hint(self, instance_id: str) -> None:
        self._cloud.hint(instance_id)

    def do_lose(self, instance_id: str) -> None:
        self._cloud.lose(instance_id)

    def do_vanish(self, instance_id: str) -> None:
        self._cloud.vanish(instance_id)

    def do_shutdown(self, instance_id: str) -> None:
        if self._hosts.pid(instance_id) is None:
            self._cloud.shut_down(instance_id)
        else:
            self._hosts.do("shutdown", instance_id, {})
