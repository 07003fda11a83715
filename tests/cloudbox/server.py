"""One box in a process of its own: moto inside, on a port of the loopback.

It ends on SIGTERM, or with --lifeline when its standard input closes, and takes with it all that
it has made.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"
os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
os.environ["MOTO_ENABLE_KEYPAIR_VALIDATION"] = "true"
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

from moto.ec2.models import EC2Backend, ec2_backends
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from tests.cloudbox import control, ec2api, network, notices
from tests.cloudbox.cloud import Cloud
from tests.cloudbox.control import NoHosts
from tests.cloudbox.hosts import REPOSITORY, Hosts
from tests.cloudbox.machines import Imaginary, Machines
from tests.cloudbox.records import Records
from tests.cloudbox.world import ACCOUNT, REGION, ZONES

LOOPBACK = "127.0.0.1"
FLAT_NETWORK = "127.77"
"""Where instances live that are not there: on the loopback, so that a dial goes nowhere else."""


_kept: list[subprocess.Popen[bytes]] = []
"""The janitor: it acts when its standard input closes, which is when we end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to start a box."""

    directory: Path
    boot: bool = False
    boot_s: float = 0.0
    shutting_down_s: float = 0.1
    binds: Sequence[str] = ()
    image: Path | None = None


def serve(options: Options, port_file: Path, *, lifeline: bool) -> None:
    """Serves until told to end."""
    options.directory.mkdir(parents=True, exist_ok=True)
    backend = ec2_backends[ACCOUNT][REGION]
    server, close = (_booting if options.boot else _flat)(options, backend)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=_end, args=(close,)).start())
    if lifeline:
        threading.Thread(target=_end_with_stdin, args=(close,), daemon=True).start()
    spare = port_file.with_suffix(".new")
    spare.write_text(json.dumps({"endpoint": f"http://{LOOPBACK}:{server.port}"}))
    spare.rename(port_file)
    server.serve_forever()


Serving = tuple[BaseWSGIServer, Callable[[], None]]
"""The server, and what ends all that it has made."""


def _flat(options: Options, backend: EC2Backend) -> Serving:
    cloud = _cloud(options, backend, Imaginary())
    config = _network(backend, FLAT_NETWORK) | {"gateway": LOOPBACK}
    return _server(cloud, NoHosts(), config), lambda: None


def _booting(options: Options, backend: EC2Backend) -> Serving:
    directory = options.directory
    records = Records(directory)
    box = secrets.token_hex(4)
    _start_janitor(directory)
    net = network.make(box, records)
    hosts = Hosts(
        box=box,
        directory=directory / "hosts",
        network=net,
        records=records,
        shapes=lambda kind: _shape(backend, kind),
        binds=options.binds,
        image=str(options.image or ""),
    )
    cloud = _cloud(options, backend, hosts)
    config = _network(backend, net.prefix) | {"gateway": net.gateway, "bridge": net.bridge}
    return _server(cloud, hosts, config), hosts.close


def _start_janitor(directory: Path) -> None:
    """A process that outlives us and removes what is left, should we be killed."""
    argv = [sys.executable, "-m", "tests.cloudbox", f"--sweep={directory}", "--lifeline"]
    _kept.append(
        subprocess.Popen(argv, cwd=REPOSITORY, stdin=subprocess.PIPE, start_new_session=True)
    )


def _shape(backend: EC2Backend, kind: str) -> tuple[int, int]:
    found = next(iter(backend.describe_instance_types([kind])))
    return int(found["VCpuInfo"]["DefaultVCpus"]), int(found["MemoryInfo"]["SizeInMiB"])


def _cloud(options: Options, backend: EC2Backend, machines: Machines) -> Cloud:
    return Cloud(
        backend,
        machines,
        boot_s=options.boot_s,
        shutting_down_s=options.shutting_down_s,
    )


def _network(backend: EC2Backend, prefix: str) -> dict[str, object]:
    """A network of our own, and an image; the answer is what a client must know of them."""
    vpc = backend.create_vpc(f"{prefix}.0.0/16")
    subnets = {
        zone: backend.create_subnet(vpc.id, f"{prefix}.{16 * i}.0/20", availability_zone=zone).id
        for i, zone in enumerate(ZONES)
    }
    group = backend.create_security_group("cloudbox", "nodes of the box", vpc_id=vpc.id)
    image = backend.register_image("cloudbox", "the machine the box runs on")
    notices.make_queue()
    return {
        "vpc": vpc.id,
        "cidr": f"{prefix}.0.0/16",
        "subnets": subnets,
        "security_group": group.id,
        "image": image.id,
        "queue": notices.QUEUE,
        "region": REGION,
        "account": ACCOUNT,
    }


def _server(cloud: Cloud, hosts: control.Hosts, config: dict[str, object]) -> BaseWSGIServer:
    ec2api.patch(cloud, hosts.console)
    endpoint = ec2api.Endpoint(DomainDispatcherApplication(create_backend_app), cloud)
    app = control.Control(cloud, endpoint, hosts, config)
    return make_server(LOOPBACK, 0, app, threaded=True, request_handler=_Quiet)


class _Quiet(MotoRequestHandler):
    """One line per call would bury what matters."""

    def log_request(self, *_: object, **__: object) -> None:
        pass


def _end_with_stdin(close: Callable[[], None]) -> None:
    sys.stdin.buffer.read()
    _end(close)


def _end(close: Callable[[], None]) -> None:
    code = 1
    try:
        close()
        code = 0
    except Exception:  # the box ends, and its janitor removes what is left
        traceback.print_exc()
    finally:
        os._exit(code)
