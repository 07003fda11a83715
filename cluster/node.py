"""A node on this machine: `python -I -m scsched.cluster.node --spec JSON`.

    node process: session leader, adopts every orphan among its children
    ├── Dask worker (in this process), its one thread runs `attempt.run_attempt`
    │     └── attempt: Scipion, mpirun, ranks
    └── agent thread: other nodes' mpirun starts `orted` here
          └── orted ── ranks

It ends, and takes all of its processes with it, when the scheduler goes (the driver died), when
the worker closes for any reason, on SIGTERM, or when it cannot join in time.
"""

import argparse
import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from scsched.cluster import attempt, processes, rundir, tags
from scsched.cluster.agent import Agent
from scsched.steps.errors import ConfigError, ScschedError

_log = logging.getLogger(__name__)
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_POLL_S = 0.5
_REPEAT_TICKS = 10
MODULE = "scsched.cluster.node"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What a node is told at its start; no secret is in it, `ps` shows it."""

    name: str
    token: str
    deployment: str
    scheduler_address: str
    tls_dir: str
    work_dir: str
    notice_file: str
    """Holds {"deadline": ISO time} once the node is to be taken back."""
    cpus: tuple[int, ...] = ()
    """CPUs to stay on; empty: all."""
    join_s: float = 60.0
    """Give up when the scheduler does not answer within."""


def to_json(spec: NodeSpec) -> str:
    """The spec as the command line carries it."""
    return json.dumps(asdict(spec))


def from_json(text: str) -> NodeSpec:
    """:raises ConfigError: it is no spec."""
    try:
        data = json.loads(text)
        return NodeSpec(**{**data, "cpus": tuple(data.get("cpus", ()))})
    except (ValueError, TypeError, AttributeError) as exc:
        raise ConfigError(f"node: --spec is wrong: {exc}") from exc


def main(argv: list[str]) -> int:
    """Runs until the node ends; leaves by `_end`, so that nothing can hold it up."""
    parser = argparse.ArgumentParser(prog=MODULE)
    parser.add_argument("--spec", required=True)
    try:
        spec = from_json(parser.parse_args(argv).spec)
        _become(spec)
        directory = rundir.make(spec.deployment, spec.name)
    except (ScschedError, OSError) as exc:
        print(f"node: {exc}", file=sys.stderr)
        return 1
    return _run(spec, directory)


def _run(spec: NodeSpec, directory: Path) -> NoReturn:
    code = 1
    try:
        asyncio.run(_serve(spec, directory))
        code = 0
    except BaseException:
        _log.exception("node %s failed", spec.name)
    _end(spec, code)


def _become(spec: NodeSpec) -> None:
    """Session leader, adopter of orphans, in its work directory, writing to its log there."""
    os.umask(0o022)  # what runs here writes into a project that a lab shares
    if os.getsid(0) != os.getpid():
        os.setsid()
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise ConfigError("the kernel has no PR_SET_CHILD_SUBREAPER; Linux 3.4 or newer is needed")
    if spec.cpus:
        os.sched_setaffinity(0, spec.cpus)
    work_dir = Path(spec.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    os.chdir(work_dir)
    _redirect(work_dir / f"{spec.name}.log")
    os.environ |= {
        tags.DEPLOYMENT: spec.deployment,
        tags.NODE: spec.name,
        tags.NODE_TOKEN: spec.token,
    }
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)


def _redirect(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


async def _serve(spec: NodeSpec, directory: Path) -> None:
    """Join the workflow's scheduler; returns when the node is to end."""
    from scsched.cluster.worker import NodeWorker, settings

    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    agent = Agent(directory, _identity(spec))
    agent.start()
    with settings():
        worker = NodeWorker(
            spec.scheduler_address,
            name=spec.name,
            tls_dir=Path(spec.tls_dir),
            local_directory=directory / "dask",
            join_s=spec.join_s,
            on_close=partial(_on_close, spec),
        )
        await asyncio.wait_for(worker, timeout=spec.join_s + 5)
        _log.info("node %s joined %s", spec.name, spec.scheduler_address)
        watch = asyncio.create_task(_watch(spec, worker.announce, agent))
        await ended.wait()
        watch.cancel()


async def _watch(spec: NodeSpec, announce: Callable[[dict[str, str]], None], agent: Agent) -> None:
    """Announce the notice once it is there, and again every few seconds: listeners come and go."""
    ticks = 0
    while True:
        deadline = _deadline(Path(spec.notice_file))
        if deadline is not None and ticks % _REPEAT_TICKS == 0:
            announce({"node": spec.name, "deadline": deadline})
        ticks = 0 if deadline is None else ticks + 1
        processes.reap_orphans(spare=attempt.children() | agent.children)
        await asyncio.sleep(_POLL_S)


def _deadline(path: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text(encoding="utf-8"))["deadline"])
    return None


def _identity(spec: NodeSpec) -> dict[str, str]:
    return {
        tags.DEPLOYMENT: spec.deployment,
        tags.NODE: spec.name,
        tags.NODE_TOKEN: spec.token,
    }


def _on_close(spec: NodeSpec, reason: str) -> NoReturn:
    _log.warning("node %s ends: its worker closes: %s", spec.name, reason)
    _end(spec, 0)


def _end(spec: NodeSpec, code: int) -> NoReturn:
    """Kill everything of this node, clean up, and be gone: no waiting for threads or sockets."""
    me = os.getpid()
    with suppress(TimeoutError, OSError):
        for process in processes.descendants(me):
            processes.send(process, signal.SIGKILL)
        processes.kill_tagged(
            {tags.NODE_TOKEN: spec.token}, uid=os.geteuid(), spare=frozenset({me}), timeout_s=5.0
        )
    rundir.remove(os.geteuid(), spec.deployment, spec.name)
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
