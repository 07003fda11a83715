"""The keeper as the driver sees it: typed calls to the process that writes the Scipion project.

`Keeper` starts `keeper_side.py` under Scipion's own Python at the first call, and again after it
was lost. Every call may be repeated: what a lost keeper had not committed never happened.
"""

import contextlib
import itertools
import json
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scsched.steps.errors import ScschedError

SIDE = Path(__file__).with_name("keeper_side.py")
START_TIMEOUT_S = 180.0
"""Scipion imports every plugin: seconds from a warm disk, minutes from a cold NFS."""
CALL_TIMEOUT_S = 300.0
CREATE_TIMEOUT_S = 900.0
CLOSE_TIMEOUT_S = 10.0


class KeeperError(ScschedError):
    """Scipion refused or failed.

    `kind` is one of foreign, unknown_class, not_found, unreadable and, for the rest, scipion.
    """

    code = "scipion"

    def __init__(self, message: str, *, kind: str = "scipion", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class KeeperLost(KeeperError):
    """The keeper died or did not answer in time; the call may be repeated."""

    code = "scipion_lost"
    exit_code = 75


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a protocol reads, as far as its parents have made it."""

    particles: int | None = None
    box_px: int | None = None
    sampling_a: float | None = None
    items: Mapping[str, int] | None = None
    """Number of items of each input that is a set, by the parameter's name."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A protocol that is ready: run `argv` in `cwd`. Scipion itself writes both logs."""

    argv: tuple[str, ...]
    cwd: Path
    stdout: Path
    stderr: Path
    job_dir: Path
    run_db: Path
    protocol: str
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Output:
    name: str
    kind: str
    """Scipion's class of it, such as SetOfParticles."""
    text: str
    items: int | None = None
    """None: not a set."""
    dims: tuple[int, ...] = ()
    sampling_a: float | None = None
    problem: str = ""
    """What of it is not on disk as registered."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a protocol; `error` is empty if it ended well and its outputs passed the check."""

    status: str
    error: str
    outputs: tuple[Output, ...]
    summary: str


class Keeper:
    """One project's keeper. Calls take turns, so threads may share it."""

    def __init__(
        self, python: Path, environment: Mapping[str, str], *, log: Path | None = None
    ) -> None:
        self._python = python
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._project: Path | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def hello(self) -> dict[str, Any]:
        """Versions of Python, pyworkflow, pwem and of each plugin, and the number of protocols."""
        return self._call("hello", timeout_s=START_TIMEOUT_S)

    def create(
        self,
        *,
        project: Path,
        name: str,
        workflow_json: str,
        owner: str = "",
        shared: bool = False,
    ) -> dict[str, int]:
        """Scipion's id of each step, by its id in the workflow; the project is made if it is not.

        `shared`: a project that another submission of the same workflow made will do.

        :raises KeeperError: the folder holds another project, or a class has no plugin here.
        """
        project = project.absolute()
        found = self._call(
            "create",
            timeout_s=CREATE_TIMEOUT_S,
            project=str(project),
            name=name,
            workflow_json=workflow_json,
            owner=owner,
            shared=shared,
        )
        self._project = project
        return {str(ref): int(object_id) for ref, object_id in found["ids"].items()}

    def open(self, project: Path) -> None:
        """Work on a project that is there already."""
        self._project = project.absolute()

    def prepare(
        self,
        protocol: int,
        *,
        attempt: int = 1,
        ranks: int | None = None,
        threads: int | None = None,
        gpu: bool | None = None,
    ) -> Prepared:
        """Make a protocol ready to run; its finished steps will be skipped.

        None leaves what the workflow says; `gpu` False switches its GPU parameters off.
        """
        found = self._on(
            "prepare", protocol=protocol, attempt=attempt, ranks=ranks, threads=threads, gpu=gpu
        )
        return Prepared(
            argv=tuple(str(part) for part in found["argv"]),
            cwd=Path(found["cwd"]),
            stdout=Path(found["stdout"]),
            stderr=Path(found["stderr"]),
            job_dir=Path(found["job_dir"]),
            run_db=Path(found["run_db"]),
            protocol=str(found["protocol"]),
            inputs=_inputs(found["inputs"]),
        )

    def finish(self, protocol: int) -> Finished:
        """Bring what the protocol wrote into the project, once its process has ended."""
        found = self._on("finish", protocol=protocol)
        problems = [str(problem) for problem in found["problems"]]
        return Finished(
            status=str(found["status"]),
            error=str(found["error"]) or "; ".join(problems),
            outputs=tuple(_output(row) for row in found["outputs"]),
            summary=str(found["summary"]),
        )

    def fail(self, protocol: int, message: str, *, aborted: bool = False) -> None:
        """Show it as failed in Scipion's window; `aborted`: a person stopped it."""
        self._on("fail", protocol=protocol, message=message, aborted=aborted)

    def inputs(self, protocol: int) -> Inputs:
        """Before ranks and memory are chosen: how large is what it will read?"""
        return _inputs(self._on("inputs", protocol=protocol)["inputs"])

    def close(self) -> None:
        """End the process; it finishes the request it is at. A later call starts a new one."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a storage that hangs holds it
                process.wait(CLOSE_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the line protocol ----

    def _on(self, op: str, **arguments: Any) -> dict[str, Any]:
        if self._project is None:
            raise KeeperError("no project is open", kind="not_found")
        return self._call(op, timeout_s=CALL_TIMEOUT_S, project=str(self._project), **arguments)

    def _call(self, op: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._ask(op, timeout_s=timeout_s, **arguments)

    def _start(self) -> None:
        self.close()
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(self._log.open("ab")) if self._log else None
            try:
                self._process = subprocess.Popen(
                    [str(self._python), "-I", str(SIDE)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=self._environment,
                )
            except OSError as exc:
                raise KeeperError(
                    f"Scipion's Python {self._python} does not start: {exc.strerror}",
                    hint="scsched doctor",
                ) from exc
        self._ask("hello", timeout_s=START_TIMEOUT_S)

    def _ask(self, op: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        number = next(self._numbers)
        request = json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n"
        try:
            answer = json.loads(self._exchange(request, time.monotonic() + timeout_s))
            if answer["id"] != number:
                raise ValueError(f"answer {answer['id']} to request {number}")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            self._kill()
            raise KeeperLost(f"Scipion's keeper was lost in `{op}`: {exc}") from exc
        if not answer["ok"]:
            error = answer["error"]
            raise KeeperError(str(error["message"]), kind=str(error["kind"]))
        result: dict[str, Any] = answer["result"]
        return result

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise OSError("it is not running")
        os.set_blocking(process.stdin.fileno(), False)
        rest = memoryview(request)
        answer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while not answer.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError("no answer in time")
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        rest = rest[os.write(process.stdin.fileno(), rest) :]
                        if not rest:
                            selector.unregister(process.stdin)
                    else:
                        answer += _some(process.stdout)
        return bytes(answer)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()


def _some(stream: IO[bytes]) -> bytes:
    found = os.read(stream.fileno(), 65536)
    if not found:
        raise ConnectionError("it ended")
    return found


def _inputs(found: Mapping[str, Any]) -> Inputs:
    return Inputs(
        particles=found["particles"],
        box_px=found["box_px"],
        sampling_a=found["sampling_a"],
        items={row["name"]: row["items"] for row in found["rows"] if row["items"] is not None},
    )


def _output(row: Mapping[str, Any]) -> Output:
    return Output(
        name=str(row["name"]),
        kind=str(row["class"]),
        text=str(row["text"]),
        items=row["items"],
        dims=tuple(row["dims"] or ()),
        sampling_a=row["sampling_a"],
        problem=str(row["problem"]),
    )
