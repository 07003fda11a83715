"""A node: `python -I -m scsched.cluster.node --spec JSON`, or `--gang FILE --index I`.

    node process: session leader, adopts every orphan among its children
    ├── Dask worker (in this process), its one thread runs `attempt.run_attempt`
    │     └── attempt: Scipion, mpirun, ranks
    └── agent thread: other nodes' mpirun starts `orted` here
          └── orted ── ranks

The first is a node of its driver's own machine. The second is one of another machine, started by
`remote.bootstrap`: it fetches its keys first, see `enrol`, and its agent listens on the network.

It ends, and takes all of its processes with it, when the scheduler goes (the driver died), when
the worker closes for any reason, on SIGHUP, on SIGTERM (unless that is its notice), or when it
cannot join in time.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from scsched.cluster import (
    attempt,
    enrol,
    lease,
    leftovers,
    notice,
    processes,
    provider,
    rundir,
    tags,
)
from scsched.cluster.agent import Agent, write_rsh
from scsched.cluster.far_agent import FarAgent
from scsched.cluster.node_spec import NodeSpec, from_json, read_gang, to_json
from scsched.cluster.notice import SignalNotice, Source
from scsched.cluster.remote import NoticeSource
from scsched.steps.errors import ConfigError, ScschedError

__all__ = ["MODULE", "NodeSpec", "from_json", "main", "to_json"]

_log = logging.getLogger(__name__)
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_POLL_S = 0.5
_REPEAT_S = 5.0
MODULE = "scsched.cluster.node"


def main(argv: list[str]) -> int:
    """Runs until the node ends; leaves by `_end`, so that nothing can hold it up."""
    parser = argparse.ArgumentParser(prog=MODULE)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--spec")
    source.add_argument("--gang", type=Path)
    parser.add_argument("--index", default="0", help="place in the gang; slurm: $SLURM_PROCID")
    args = parser.parse_args(argv)
    try:
        spec = read_gang(args.gang, args.index) if args.gang else from_json(args.spec)
        _become(spec)
        directory = leftovers.make(spec.deployment, spec.name)
        if spec.scratch:
            leftovers.hold(Path(spec.scratch))
        shared = spec.scratch not in ("", spec.work_dir)
        leftovers.sweep(Path(spec.work_dir) if shared else None)
    except (ScschedError, OSError) as exc:
        print(f"node: {exc}", file=sys.stderr)
        return 1
    return _run(spec, directory)


def _run(spec: NodeSpec, directory: Path) -> NoReturn:
    code = 1
    try:
        asyncio.run(_serve(spec, directory))
        code = 0
    except ScschedError as exc:
        _log.error("node %s ends: %s", spec.name, exc)
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
    if spec.desk:
        rundir.private(work_dir)
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
    """Join the workflow's scheduler, and be its node until told to end, or until it fails."""
    ended = asyncio.Event()
    heard = SignalNotice(spec.grace_s, ended.set)
    by_signal = spec.notice == NoticeSource.SIGNAL
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.hear if by_signal else ended.set)
    loop.add_signal_handler(signal.SIGHUP, ended.set)
    node = asyncio.create_task(_live(spec, directory, notice.source(spec, heard)))
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({node, ending}, return_when=asyncio.FIRST_COMPLETED)
    if not node.done():
        _end(spec, 0)  # at once: a thread of ours may wait at the desk for as long as it likes
    node.result()


async def _live(spec: NodeSpec, directory: Path, source: Source) -> None:
    """Enrol where that is needed, join, and then listen for the notice, for ever."""
    from scsched.cluster.worker import NodeWorker, settings

    host = _own_address(spec) if spec.desk else None
    tls_dir = await _keys(spec, directory)
    agent = _agent(spec, directory, tls_dir, host)
    agent.start()
    if spec.lease_file:
        lease.keep(Path(spec.lease_file))
    with settings():
        worker = NodeWorker(
            spec.scheduler_address,
            name=spec.name,
            tls_dir=tls_dir,
            local_directory=directory / "dask",
            join_s=spec.join_s,
            on_close=partial(_on_close, spec),
            host=host,
        )
        await asyncio.wait_for(worker, timeout=spec.join_s + 5)
        _log.info("node %s joined %s", spec.name, spec.scheduler_address)
        await asyncio.gather(_listen(spec, worker.announce, source), _reap(agent))


async def _keys(spec: NodeSpec, directory: Path) -> Path:
    """Where the workflow's keys are, fetched first where the driver's are out of reach."""
    if not spec.desk:
        return Path(spec.tls_dir)
    into = rundir.keys_dir(os.geteuid(), spec.deployment, spec.name)
    await asyncio.to_thread(
        enrol.fetch,
        provider.Desk(spec.desk, spec.fingerprint),
        spec.name,
        spec.ticket,
        into,
        timeout_s=spec.join_s,
        connect_timeout_s=spec.connect_timeout_s,
    )
    _log.info("node %s has fetched its keys from %s", spec.name, spec.desk)
    return into


def _agent(spec: NodeSpec, directory: Path, tls_dir: Path, host: str | None) -> Agent | FarAgent:
    if host is None:
        return Agent(directory, _identity(spec))
    write_rsh(directory)
    return FarAgent(directory, _identity(spec), host=host, keys=tls_dir, scratch=spec.scratch)


def _own_address(spec: NodeSpec) -> str:
    """Ours, as who answers at the desk sees it. Connecting a datagram socket sends nothing."""
    host, _, port = spec.desk.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


async def _listen(
    spec: NodeSpec, announce: Callable[[dict[str, str]], None], source: Source
) -> None:
    """Announce the notice once it is there, and again every few seconds: listeners come and go."""
    while True:
        deadline = await asyncio.to_thread(source.deadline)
        if deadline is not None:
            announce({"node": spec.name, "deadline": deadline})
        await asyncio.sleep(source.every_s if deadline is None else _REPEAT_S)


async def _reap(agent: Agent | FarAgent) -> None:
    while True:
        processes.reap_orphans(spare=attempt.children() | agent.children)
        await asyncio.sleep(_POLL_S)


def _identity(spec: NodeSpec) -> dict[str, str]:
    return {
        tags.DEPLOYMENT: spec.deployment,
        tags.NODE: spec.name,
        tags.NODE_TOKEN: spec.token,
        **{name: os.environ[name] for name in tags.GPUS if name in os.environ},
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
