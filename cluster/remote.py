"""The start of a node on another machine: one POSIX sh script for a whole gang, without secrets.

    dead-man watchdog ─► storage ─► owner's account ─► node process ─► power off, whatever happened
      (its own process,     mount, or   useradd with       as the owner,     (a batch job: exit)
       root, never killed   already     the same uid       enrols, joins
       for memory)          there       and gid

The tickets in it are worth one fetch of the keys each, see `enrol`. All that it does goes to its
standard output, which on a machine of a cloud is the console.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from scsched.cluster.pools import Storage
from scsched.cluster.provider import BadRequest, LaunchRequest, gang_of, index_of

MAX_BYTES = 16_000
"""EC2 takes 16,384 bytes of user data, before base64; some room for what a provider adds.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
"""
MACHINE_DIR = "/run/scsched"
"""Of a machine that is ours: gang file and lease."""
_GANG_EOF = "SCSCHED_GANG_EOF"


class NoticeSource(StrEnum):
    """How a node hears that it will be taken back."""

    FILE = "file"
    """A local file appears."""
    IMDS = "imds"
    """EC2's instance metadata service, version 2, asked every 5 s."""
    SIGNAL = "signal"
    """The first SIGTERM is the notice; the node goes on until it is killed, or hears a second."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProgram:
    """How a provider's nodes start, the same for all requests."""

    python: str
    """Of scsched's environment on the node."""
    notice: NoticeSource
    scratch: str = "/var/tmp"  # noqa: S108 - the node's own directory in it is private
    """Node-local; what the owner's processes write there goes with them."""
    owns_machine: bool = True
    """Mount the storage, make the account, power off at the end; False: a batch job of the user."""
    dead_man_s: int = 1800
    """Ends a machine, or a job, whose lease nobody has renewed for so long."""
    grace_s: float = 0.0
    """With `signal`: seconds from SIGTERM to the kill."""
    index: str = ""
    """Words of sh that print this machine's `index_of` its token; empty: the only request's."""


def bootstrap(requests: Sequence[LaunchRequest], program: NodeProgram) -> str:
    """The script for the nodes of one gang, given in order of their index; every node gets it.

    Equal for equal requests, so that it may be part of an idempotent launch call.

    :raises BadRequest: they are not one gang, lack a desk or a ticket, or it is over `MAX_BYTES`.
    """
    _check(requests)
    if len(requests) > 1 and not program.index:
        raise BadRequest(f"{requests[0].name}: a machine of a gang cannot tell its place in it")
    script = _settings(requests, program) + _template() + _write_gang(requests, program) + "main\n"
    size = len(script.encode())
    if size > MAX_BYTES:
        raise BadRequest(
            f"{requests[0].name}: the start of {len(requests)} nodes takes {size} bytes, "
            f"over {MAX_BYTES}; use fewer nodes in one gang"
        )
    return script


def work_dir(program: NodeProgram, uid: int) -> str:
    """Of the node processes, on the node: private to their owner."""
    return f"{program.scratch.rstrip('/')}/scsched-{uid}"


def gang_file(requests: Sequence[LaunchRequest], program: NodeProgram) -> Mapping[str, object]:
    """What a node of the gang is told at its start; see `node_spec.read_gang`."""
    first = requests[0]
    desk = first.join.desk
    return {
        "deployment": first.deployment,
        "scheduler_address": first.join.scheduler_address,
        "desk": desk.address if desk else "",
        "fingerprint": desk.fingerprint if desk else "",
        "notice": program.notice.value,
        "grace_s": program.grace_s,
        "work_dir": work_dir(program, first.owner.uid),
        "scratch": work_dir(program, first.owner.uid) if program.owns_machine else "",
        "join_s": first.pool.boot_s,
        "nodes": [
            {"name": request.name, "token": request.token, "ticket": request.ticket}
            for request in requests
        ],
    }


def _check(requests: Sequence[LaunchRequest]) -> None:
    if not requests:
        raise BadRequest("no node to start")
    first = requests[0]
    places = [index_of(request.token) for request in requests]
    if places != sorted(set(places)):
        raise BadRequest(f"{first.name}: the nodes of its gang are not in order: {places}")
    for request in requests:
        if gang_of(request.token) != gang_of(first.token):
            raise BadRequest(f"{request.name}: of another gang than {first.name}")
        if request.join != first.join or request.pool != first.pool:
            raise BadRequest(f"{request.name}: of another pool or workflow than {first.name}")
        if request.owner != first.owner or request.deployment != first.deployment:
            raise BadRequest(f"{request.name}: of another owner than {first.name}")
        if request.join.desk is None or not request.ticket:
            raise BadRequest(f"{request.name}: a node of another machine needs a desk and a ticket")
        if not request.name.isidentifier():
            raise BadRequest(f"node name {request.name!r}; letters, digits and _ only")


def _settings(requests: Sequence[LaunchRequest], program: NodeProgram) -> str:
    """The head of the script: every value quoted, so that none can be more than a value."""
    first = requests[0]
    storage = first.pool.storage or Storage(path="")
    values = {
        "deployment": first.deployment,
        "gang": gang_of(first.token),
        "python": program.python,
        "scratch": program.scratch,
        "work": work_dir(program, first.owner.uid),
        "uid": first.owner.uid,
        "gid": first.owner.gid,
        "user": first.owner.username,
        "machine": int(program.owns_machine),
        "machine_dir": MACHINE_DIR,
        "dead_man_s": program.dead_man_s,
        "mount_path": storage.path,
        "mount_export": storage.export,
        "mount_type": storage.fstype,
        "mount_options": storage.options,
    }
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    index = program.index or f"echo {index_of(first.token)}"
    return "\n".join(["#!/bin/sh", *lines, f"print_index() {{ {index}; }}", ""])


def _template() -> str:
    """The script proper, without its comments and blank lines: user data is small."""
    text = resources.files("scsched.cluster").joinpath("bootstrap.sh").read_text(encoding="ascii")
    lines = (line for line in text.splitlines() if line.strip())
    return "\n".join(line for line in lines if not line.lstrip().startswith("#")) + "\n"


def _write_gang(requests: Sequence[LaunchRequest], program: NodeProgram) -> str:
    # JSON escapes line ends inside of strings, so no line of it can be the end mark.
    text = json.dumps(gang_file(requests, program), sort_keys=True, separators=(",", ":"))
    return f"write_gang() {{ cat <<'{_GANG_EOF}'\n{text}\n{_GANG_EOF}\n}}\n"
