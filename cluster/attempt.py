"""One attempt of a step on its lead node: start it, wait, stop it, leave nothing behind.

`run_attempt` runs as a Dask task in the node's process; `stop_attempt` is sent to every node of
the gang. Both take and give plain data, so that the driver needs no class of ours to be equal on
both sides.
"""

import asyncio
import json
import logging
import os
import resource
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scsched.cluster import cgroup, leftovers, processes, rundir, tags
from scsched.cluster import gang as gangs
from scsched.cluster.abort import STORAGE_S, of_job
from scsched.cluster.gang import Gang
from scsched.steps.errors import ConfigError

_log = logging.getLogger(__name__)
_POLL_S = 0.1
_WALLTIME_GRACE_S = 10.0
_SETTLE_S = 0.5
"""mpirun ends a moment before the clients that it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec:
    """What to run. `env` goes on top of the node's own; `gang` None means no MPI over nodes."""

    run_token: str
    argv: tuple[str, ...]
    cwd: str
    stdout: str
    stderr: str
    scratch_dir: str
    env: Mapping[str, str] = field(default_factory=dict)
    gang: Gang | None = None
    walltime_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """How it ended. `cpu_s` and `max_rss_mib` cover what it waited for on the lead node.

    The kernel counts from the fork, so `max_rss_mib` is at least the node's own, some 80 MiB.
    """

    exit_code: int | None
    """None when a signal ended it."""
    signal: int | None
    oom: bool
    """The kernel killed something of this node, or else of this machine, for want of memory.

    Whatever the exit code: Scipion ends with 0 also when what it had started was killed.
    """
    timed_out: bool
    stopped: bool
    """`stop_attempt` was called for it."""
    wall_s: float
    cpu_s: float
    max_rss_mib: float
    leftovers: int
    """Processes that were still there after it had ended."""


_running: dict[str, "subprocess.Popen[bytes]"] = {}
_stopped: set[str] = set()
"""Run tokens that were stopped here, some of them before they started."""
_starting = threading.Lock()


_NEVER_STARTED = AttemptEnd(
    exit_code=None,
    signal=signal.SIGTERM,
    oom=False,
    timed_out=False,
    stopped=True,
    wall_s=0.0,
    cpu_s=0.0,
    max_rss_mib=0.0,
    leftovers=0,
)


def run_attempt(spec: dict[str, object]) -> dict[str, object]:
    """Run to the end; `spec` holds the fields of AttemptSpec, the answer those of AttemptEnd.

    :raises ConfigError: the spec is wrong, or the program or its directories cannot be had.
    """
    return asdict(_run(_parsed(spec)))


async def stop_attempt(
    run_token: str, grace_s: float = 10.0, job_dir: str | None = None
) -> dict[str, object]:
    """Stop what runs here under `run_token`; says how many processes had to be killed.

    RELION's own abort file first, where there is a job directory that answers; after half of
    `grace_s` SIGTERM to the attempt's process group; at its end SIGKILL to everything with the tag.
    Repeating it, or calling it where nothing runs, is harmless; a run that starts here later ends
    at once.
    """
    return await asyncio.to_thread(_stop, run_token, grace_s, job_dir)


def children() -> frozenset[int]:
    """Pids of the attempts, which `run_attempt` waits for itself."""
    return frozenset(process.pid for process in tuple(_running.values()))


def _run(spec: AttemptSpec) -> AttemptEnd:
    scratch = Path(spec.scratch_dir)
    ooms = cgroup.oom_kills()
    start = time.monotonic()
    try:
        process = _start(spec, _prepare(spec, scratch))
        if process is None:
            return _NEVER_STARTED
        try:
            timed_out, status, usage = _wait(process, spec)
        finally:
            _until(lambda: not _alive(spec.run_token), time.monotonic() + _SETTLE_S)
            leftovers = _kill(spec.run_token)
            del _running[spec.run_token]
    except OSError as exc:
        raise ConfigError(f"run {spec.run_token}: cannot start {spec.argv[0]}: {exc}") from exc
    finally:
        _clean(scratch)
    code = os.waitstatus_to_exitcode(status)
    return AttemptEnd(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        oom=cgroup.oom_kills() > ooms,
        timed_out=timed_out,
        stopped=spec.run_token in _stopped,
        wall_s=round(time.monotonic() - start, 3),
        cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        max_rss_mib=round(usage.ru_maxrss / 1024, 1),
        leftovers=leftovers,
    )


def _prepare(spec: AttemptSpec, scratch: Path) -> dict[str, str]:
    """Scratch, TMPDIR and gang.json; returns the environment that names them."""
    temporary = scratch / "tmp"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    rundir.private(scratch)
    rundir.private(temporary)
    environ = {**os.environ, **spec.env, tags.RUN: spec.run_token}
    environ |= {tags.SCRATCH: str(scratch), "TMPDIR": str(temporary)}
    environ.pop(tags.GANG, None)
    if spec.gang is not None:
        path = scratch / "gang.json"
        gangs.write(spec.gang, path)
        environ[tags.GANG] = str(path)
    return environ | _identity()


def _start(spec: AttemptSpec, environ: Mapping[str, str]) -> "subprocess.Popen[bytes] | None":
    """None: it was stopped first. Opening its logs may take as long as storage likes.

    Naming the group, though it is our own, has Python use fork and not vfork, after which no thread
    of ours runs until the child has entered its folder. See `_USE_VFORK` in
    https://docs.python.org/3/library/subprocess.html
    """
    with Path(spec.stdout).open("ab") as stdout, Path(spec.stderr).open("ab") as stderr, _starting:
        if spec.run_token in _stopped:
            return None
        process = subprocess.Popen(
            spec.argv,
            cwd=spec.cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
            group=os.getegid(),
        )
        _running[spec.run_token] = process
        if spec.run_token in _stopped:  # by one who did not wait any longer for storage
            process.kill()
        return process


def _wait(
    process: "subprocess.Popen[bytes]", spec: AttemptSpec
) -> tuple[bool, int, resource.struct_rusage]:
    """Until the process itself ends: never its output, which others may hold open."""
    pid = process.pid
    handle = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        walltime_ms = None if spec.walltime_s is None else spec.walltime_s * 1000
        timed_out = not poller.poll(walltime_ms)
        if timed_out:
            _log.warning("run %s used up its %s s", spec.run_token, spec.walltime_s)
            _stop(spec.run_token, _WALLTIME_GRACE_S, None, by_a_person=False)
    finally:
        os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return timed_out, status, usage


def _stop(
    run_token: str, grace_s: float, job_dir: str | None, *, by_a_person: bool = True
) -> dict[str, object]:
    if by_a_person:
        _stopped.add(run_token)
    end = time.monotonic() + grace_s
    process = _process_of(run_token)
    abort = of_job(Path(job_dir)) if job_dir is not None and _alive(run_token) else None
    if abort is not None and abort.ask():
        _until(lambda: not _alive(run_token), end - grace_s / 2)
    terminated = _alive(run_token)
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    _until(lambda: not _alive(run_token), end)
    killed = _kill(run_token)
    if abort is not None:
        abort.over()
    return {"node": os.environ.get(tags.NODE, ""), "terminated": terminated, "killed": killed}


def _process_of(run_token: str) -> "subprocess.Popen[bytes] | None":
    """Waits for a start that is under way, but not for one that storage holds up."""
    waited = _starting.acquire(timeout=STORAGE_S)
    try:
        return _running.get(run_token)
    finally:
        if waited:
            _starting.release()


def _until(done: Callable[[], bool], deadline: float) -> None:
    while not done() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _identity() -> dict[str, str]:
    """This node's tags: on one machine other nodes of the gang carry the same run."""
    names = (tags.DEPLOYMENT, tags.NODE, tags.NODE_TOKEN)
    return {name: os.environ[name] for name in names if name in os.environ}


def _alive(run_token: str) -> int:
    return len(processes.find({tags.RUN: run_token, **_identity()}, uid=os.geteuid()))


def _kill(run_token: str) -> int:
    return processes.kill_tagged(
        {tags.RUN: run_token, **_identity()}, uid=os.geteuid(), spare=frozenset({os.getpid()})
    )


def _clean(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    if tags.NODE in os.environ and tags.DEPLOYMENT in os.environ:
        shm = rundir.shm_dir(os.geteuid(), os.environ[tags.DEPLOYMENT], os.environ[tags.NODE])
        for segment in shm.glob("*"):
            if segment.name != leftovers.MARK:
                segment.unlink(missing_ok=True)


def _parsed(spec: Mapping[str, object]) -> AttemptSpec:
    data = dict(spec)
    argv = data.get("argv")
    if not isinstance(argv, list | tuple) or not argv or not all(isinstance(w, str) for w in argv):
        raise ConfigError(f"attempt: argv {argv!r} is not a list of words")
    members = data.get("gang")
    data["argv"] = tuple(argv)
    data["gang"] = None if members is None else gangs.from_json(members, where="attempt gang")
    try:
        return AttemptSpec(**data)  # type: ignore[arg-type]  # checked by the text fields below
    except TypeError as exc:
        raise ConfigError(f"attempt: {exc}; see AttemptSpec") from exc


def as_json(spec: AttemptSpec) -> dict[str, object]:
    """The spec as `run_attempt` takes it."""
    data = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    data["argv"] = list(spec.argv)
    data["env"] = dict(spec.env)
    data["gang"] = None if spec.gang is None else gangs.to_json(spec.gang)
    json.dumps(data)
    return data
