"""What a node is told at its start, and the two ways it is told: a word, or a file for a gang."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scsched.cluster.provider import index_of
from scsched.cluster.remote import NoticeSource
from scsched.steps.errors import ConfigError

_SLURM = "slurm"
IMDS = "169.254.169.254"
IMDS_EVERY_S = 5.0
"""https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a node is told at its start; no lasting secret is in it, `ps` shows it."""

    name: str
    token: str
    deployment: str
    scheduler_address: str
    work_dir: str
    """Its log is here."""
    scratch: str = ""
    """What attempts write on the node's own disk is here. Of a node of another machine: `work_dir`,
    or where nodes of one user may share a machine the directory of its gang file."""
    tls_dir: str = ""
    """The workflow's keys, where the node can see them."""
    notice_file: str = ""
    """Holds {"deadline": ISO time} once the node is to be taken back."""
    cpus: tuple[int, ...] = ()
    """CPUs to stay on; empty: all."""
    join_s: float = 60.0
    """Give up when the desk, or the scheduler, does not answer within."""
    desk: str = ""
    """host:port where a node of another machine fetches its keys; see `enrol`."""
    fingerprint: str = ""
    ticket: str = ""
    connect_timeout_s: float = 10.0
    notice: NoticeSource = NoticeSource.FILE
    grace_s: float = 0.0
    """From SIGTERM to the kill, where the signal is the notice."""
    imds: str = IMDS
    imds_every_s: float = IMDS_EVERY_S
    lease_file: str = ""
    """What the dead-man watchdog of this machine looks at."""


def to_json(spec: NodeSpec) -> str:
    """The spec as the command line carries it."""
    return json.dumps(asdict(spec))


def from_json(text: str) -> NodeSpec:
    """:raises ConfigError: it is no spec."""
    try:
        return _made(json.loads(text))
    except (ValueError, TypeError, AttributeError) as exc:
        raise ConfigError(f"node: --spec is wrong: {exc}") from exc


def read_gang(path: Path, index: str) -> NodeSpec:
    """The spec of the node at that place of its gang; its lease lies beside the file.

    :param index: a number, or `slurm` for $SLURM_PROCID.

    :raises ConfigError: the file is not one that `remote` wrote, or has no such place.
    """
    try:
        data = json.loads(path.read_text(encoding="ascii"))
        place = int(os.environ["SLURM_PROCID"] if index == _SLURM else index)
        (node,) = [node for node in data.pop("nodes") if index_of(str(node["token"])) == place]
        data["scratch"] = data.get("scratch") or str(path.parent)
        return _made({**data, **node, "lease_file": str(path.with_name("lease"))})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ConfigError(f"{path}: no start of node {index} of a gang: {exc!r}") from exc


def _made(data: Mapping[str, object]) -> NodeSpec:
    cpus, kind = data.get("cpus", ()), NoticeSource(str(data.get("notice", "file")))
    if not isinstance(cpus, list | tuple):
        raise TypeError(f"cpus {cpus!r}")
    return NodeSpec(**{**data, "cpus": tuple(cpus), "notice": kind})  # type: ignore[arg-type]
