"""Scipion's half of the keeper: the one process that writes a project's `project.sqlite`.

It is run by path with the Python that Scipion is installed in, and imports nothing of scsched but
the files beside it. One JSON object a line comes in on stdin, one goes out on stdout for each:

    {"id": 7, "op": "finish", "project": "/data/p", "protocol": 58}
    {"id": 7, "ok": true, "result": {...}}   or   {"id": 7, "ok": false, "error": {...}}

Whatever Scipion and its plugins print goes to stderr. Nothing is kept between two requests, so a
new keeper can take over at any line; a request may be repeated.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
OURS = ".scsched"
"""Folder of a project in which scsched keeps what it knows about it."""


class Refused(Exception):
    """A request that makes no sense; `kind` is a stable word."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _beside(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = _beside("keeper_files")
_beside("keeper_checks")
results = _beside("keeper_outputs")

# ---- the project -----------------------------------------------------------------------------


def hello() -> Json:
    """Which Scipion this is."""
    import pwem
    import pyworkflow

    classes = _domain().getProtocols()
    plugins = {found.getPlugin().getName() for found in classes.values()}
    return {
        "python": sys.version.split()[0],
        "pyworkflow": pyworkflow.__version__,
        "pwem": pwem.__version__,
        "plugins": {name: _version(name) for name in sorted(plugins)},
        "protocols": len(classes),
    }


def create(
    project: str, name: str, workflow_json: str, owner: str = "", shared: bool = False
) -> Json:
    """Make the project, or open the one that an earlier request made.

    A marker is written first and `project.json` last: a project with the first and without the
    second was never whole, and is made afresh. `shared`: the project of another submission of
    the same workflow will do.
    """
    path = Path(project)
    document = json.loads(workflow_json)
    record: Json = {
        "schema": "scsched/project/v1",
        "name": name,
        "owner": owner,
        "workflow_sha256": hashlib.sha256(workflow_json.encode()).hexdigest(),
    }
    whole = path / OURS / "project.json"
    if whole.exists():
        return _same(path, json.loads(whole.read_text()), record, shared=shared)
    marker = path / OURS / "creating"
    if (path / "project.sqlite").exists() and not marker.exists():
        raise Refused("foreign", f"{path} is a Scipion project that scsched did not make")
    _check_classes(document)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    record["ids"] = _load(path, document)
    files.sync(path / "project.sqlite")
    _write_whole(whole, json.dumps(record, indent=1))
    marker.unlink(missing_ok=True)
    return {"ids": record["ids"], "created": True}


def _same(path: Path, known: Json, wanted: Json, *, shared: bool) -> Json:
    if known["workflow_sha256"] != wanted["workflow_sha256"]:
        raise Refused("foreign", f"{path} holds another workflow")
    if known["owner"] != wanted["owner"] and not shared:
        raise Refused("foreign", f"{path} belongs to another submission of this workflow")
    return {"ids": known["ids"], "created": False}


def _check_classes(document: list[Json]) -> None:
    """Scipion itself only logs an unknown class, and runs its children without input."""
    missing = {row["object.className"] for row in document} - set(_domain().getProtocols())
    if missing:
        raise Refused("unknown_class", f"no plugin here offers {', '.join(sorted(missing))}")


def _load(path: Path, document: list[Json]) -> dict[str, int]:
    from pyworkflow.project import Project

    project = Project(_domain(), str(path))
    project.create()
    loaded = project.loadProtocols(jsonStr=json.dumps(document))
    for row in document:
        protocol = loaded[row["object.id"]]
        # The loader loses both: pyworkflow's Step.__init__ drops its keyword arguments.
        protocol.setObjLabel(row.get("object.label") or protocol.getClassLabel())
        protocol.setObjComment(row.get("object.comment") or "")
        project.mapper.store(protocol)
    project.mapper.commit()
    project.closeMapper()
    return {str(json_id): protocol.getObjId() for json_id, protocol in loaded.items()}


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The project as it is on disk now."""
    from pyworkflow.project import Project

    project = Project(_domain(), path)
    project.load()
    # Whether a protocol's process lives is known to scsched, which may run it on another host.
    project.checkIsAlive = lambda protocol: True
    try:
        yield project
        project.mapper.commit()
    finally:
        project.closeMapper()


# ---- one protocol ----------------------------------------------------------------------------


def prepare(
    project: str,
    protocol: int,
    attempt: int = 1,
    ranks: int | None = None,
    threads: int | None = None,
    gpu: bool | None = None,
) -> Json:
    """Make the protocol ready to run, as Scipion does when a person presses Execute.

    Always as a resume: steps of an earlier attempt that are finished and unchanged are skipped, and
    a first attempt has none. `run.db` is replaced, not rewritten, so a process left over from an
    earlier attempt writes to a file that nobody reads.
    """
    from pyworkflow.protocol import MODE_RESUME, STATUS_LAUNCHED
    from pyworkflow.utils import getFileLastModificationDate

    with _opened(project) as opened:
        prot = _protocol(opened, protocol)
        if attempt > 1:
            _absorb(opened, prot)
        _lay_out(prot, ranks, threads, gpu)
        prot.runMode.set(MODE_RESUME)
        prot.setStatus(STATUS_LAUNCHED)
        prot.cleanExecutionAttributes()
        opened._setupProtocol(prot)
        prot.makePathsAndClean()
        opened.mapper.commit()
        files.replace_by_copy(Path(opened.dbPath), Path(prot.getDbPath()))
        prot.lastUpdateTimeStamp.set(getFileLastModificationDate(prot.getDbPath()))
        opened.mapper.store(prot)
        return _command(opened.path, prot) | {"inputs": results.inputs_of(prot)}


def finish(project: str, protocol: int) -> Json:
    """Bring what the protocol wrote into the project; its status and outputs, checked on disk."""
    with _opened(project) as opened:
        prot = _protocol(opened, protocol)
        _absorb(opened, prot)
        outputs = [results.output(name, value, prot) for name, value in prot.iterOutputAttributes()]
        return {
            "status": prot.getStatus(),
            "error": results.error(prot),
            "outputs": outputs,
            "problems": results.problems(prot, outputs),
            "summary": "; ".join(f"{row['name']}: {row['text']}" for row in outputs),
        }


def fail(project: str, protocol: int, message: str, aborted: bool = False) -> Json:
    """Show the protocol as failed, or as aborted, in Scipion's window.

    The next attempt runs every step again if each of them is finished: then it was the outputs that
    did not pass, and Scipion would find nothing to do.
    """
    from pyworkflow.protocol import STATUS_ABORTED, STATUS_FAILED

    with _opened(project) as opened:
        prot = _protocol(opened, protocol)
        if not prot.isSaved():
            _absorb(opened, prot)
            if 0 < prot.numberOfSteps <= prot.stepsDone:
                Path(prot.getStepsFile()).unlink(missing_ok=True)
            prot._finalizeStep(STATUS_ABORTED if aborted else STATUS_FAILED, msg=message)
            opened.mapper.store(prot)
        return {"status": prot.getStatus()}


def inputs(project: str, protocol: int) -> Json:
    """What the protocol will read, as far as its parents have made it."""
    with _opened(project) as opened:
        return {"inputs": results.inputs_of(_protocol(opened, protocol))}


def _protocol(project: Any, object_id: int) -> Any:
    try:
        return project.getProtocol(object_id)
    except Exception as exc:
        raise Refused("not_found", f"{project.path} has no protocol {object_id}") from exc


def _absorb(project: Any, prot: Any) -> None:
    """What the protocol's own database says, taken into the project's."""
    import pyworkflow
    from pyworkflow.utils import getFileLastModificationDate

    own = prot.getDbPath()
    if not Path(own).exists():
        return
    prot.lastUpdateTimeStamp.set(None)  # or Scipion may think it has seen this version
    try:
        with files.aside(Path(own)) as copy:
            prot.getDbPath = lambda: str(copy)
            updated = project._updateProtocol(prot)
    except OSError as exc:
        raise Refused("unreadable", str(exc)) from exc
    finally:
        prot.__dict__.pop("getDbPath", None)
    if updated == pyworkflow.NOT_UPDATED_ERROR:
        raise Refused("unreadable", f"{own} cannot be read: {prot.getErrorMessage()}")
    prot.lastUpdateTimeStamp.set(getFileLastModificationDate(own))
    project.mapper.store(prot)


def _lay_out(prot: Any, ranks: int | None, threads: int | None, gpu: bool | None) -> None:
    """Ranks and threads as the broker placed them, where the protocol offers them."""
    prot._useQueue.set(False)  # scsched is the queue
    if ranks and prot.allowMpi:
        prot.numberOfMpi.set(ranks)
    if threads and prot.allowThreads:
        prot.numberOfThreads.set(_scipion_threads(prot, threads))
    if gpu is False:
        for name in ("doGpu", "useGpu"):
            if hasattr(prot, name):
                getattr(prot, name).set(False)


def _scipion_threads(prot: Any, threads: int) -> int:
    """Where steps run in parallel, one of Scipion's threads only hands them out."""
    from pyworkflow.protocol import ProtStreamingBase

    if not prot.modeParallel():
        return threads
    least = 3 if isinstance(prot, ProtStreamingBase) else 1
    return max(least, threads + 1 if threads > 1 else 1)


def _command(project: str, prot: Any) -> Json:
    import pyworkflow

    script = pyworkflow.join(pyworkflow.APPS, "pw_protocol_run.py")
    stdout, stderr = (
        str(project / Path(prot.getStdoutLog())),
        str(project / Path(prot.getStderrLog())),
    )
    argv = [sys.executable, script, project, prot.getDbPath(), prot.strId(), stdout, stderr]
    return {
        "argv": argv,
        "cwd": project,
        "stdout": stdout,
        "stderr": stderr,
        "job_dir": str(project / Path(prot.getWorkingDir())),
        "run_db": str(project / Path(prot.getDbPath())),
        "protocol": prot.getClassName(),
    }


# ---- the line protocol -----------------------------------------------------------------------

_ALL: tuple[Callable[..., Json], ...] = (*(hello, create, prepare, finish, fail, inputs),)
OPERATIONS = {op.__name__: op for op in _ALL}


def answer(request: Json) -> Json:
    """The answer to one request; never raises."""
    try:
        arguments = {key: value for key, value in request.items() if key not in ("id", "op")}
        result = OPERATIONS[request["op"]](**arguments)
    except Refused as exc:
        return _no(request, exc.kind, str(exc))
    except (Exception, SystemExit) as exc:  # Scipion exits where its hosts file is missing
        traceback.print_exc()
        return _no(request, "scipion", f"{type(exc).__name__}: {exc}")
    return {"id": request["id"], "ok": True, "result": result}


def _no(request: Json, kind: str, message: str) -> Json:
    return {"id": request.get("id"), "ok": False, "error": {"kind": kind, "message": message}}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line)), default=str) + "\n")


def _domain() -> Any:
    import pyworkflow

    return pyworkflow.Config.getDomain()


def _version(plugin: str) -> str:
    return str(getattr(sys.modules.get(plugin), "__version__", ""))


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


if __name__ == "__main__":
    main()
