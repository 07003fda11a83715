"""What PBS, SGE, LSF and HTCondor say of their jobs, read into one shape.

Written from these systems' documentation and recorded answers, not from running ones.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from scsched.cluster.provider import NodeState, Unreachable

_P, _R, _S, _T = NodeState.PENDING, NodeState.RUNNING, NodeState.STOPPING, NodeState.TERMINATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One job, of whomever."""

    job_id: str
    name: str
    state: NodeState
    user: str = ""
    queue: str = ""
    started_at: datetime | None = None


_PBS = {"Q": _P, "W": _P, "T": _P, "H": _P, "R": _R, "E": _S, "S": _S, "U": _S, "F": _T, "X": _T}
"""qstat(1B) of OpenPBS."""
_LSF = {"PEND": _P, "WAIT": _P, "PROV": _P, "RUN": _R, "DONE": _T, "EXIT": _T}
"""bjobs(1); suspended, unknown and zombie jobs are on their way out."""
_HTCONDOR = {1: _P, 2: _R, 3: _T, 4: _T, 6: _R}
"""JobStatus; held and suspended jobs are on their way out."""


def pbs(said: str) -> Iterator[Listed]:
    """`qstat -x -f -F json`"""
    for job_id, job in _table(_json(said), "Jobs").items():
        yield Listed(
            job_id=job_id,
            name=str(job.get("Job_Name", "")),
            state=_PBS.get(str(job.get("job_state", "")), _S),
            user=str(job.get("Job_Owner", "")).partition("@")[0],
            queue=str(job.get("queue", "")),
        )


def sge(said: str) -> Iterator[Listed]:
    """`qstat -u * -xml`; ended jobs are not in it."""
    try:
        root = ElementTree.fromstring(said)  # noqa: S314 - see the import
    except ElementTree.ParseError as exc:
        raise Unreachable(f"qstat: its answer is no XML: {exc}") from exc
    for job in root.iter("job_list"):
        yield Listed(
            job_id=job.findtext("JB_job_number", ""),
            name=job.findtext("JB_name", ""),
            state=_of_sge(job.findtext("state", "")),
            user=job.findtext("JB_owner", ""),
            queue=job.findtext("queue_name", "").partition("@")[0],
        )


def lsf(said: str) -> Iterator[Listed]:
    """`bjobs -u all -a -json -o "jobid stat user queue job_name"`"""
    for job in _rows(_json(said).get("RECORDS")):
        yield Listed(
            job_id=str(job.get("JOBID", "")),
            name=str(job.get("JOB_NAME", "")),
            state=_LSF.get(str(job.get("STAT", "")), _S),
            user=str(job.get("USER", "")),
            queue=str(job.get("QUEUE", "")),
        )


def htcondor(said: str) -> Iterator[Listed]:
    """`condor_q -allusers -json -attributes ...`; it says nothing at all when there is no job."""
    for job in _rows(_json(said or "[]", list)):
        start = job.get("JobCurrentStartDate")
        yield Listed(
            job_id=f"{job.get('ClusterId')}.{job.get('ProcId')}",
            name=str(job.get("ScschedName", "")),
            state=_HTCONDOR.get(int(job.get("JobStatus", 0)), _S),
            user=str(job.get("Owner", "")),
            started_at=datetime.fromtimestamp(start, UTC) if isinstance(start, int) else None,
        )


def _of_sge(state: str) -> NodeState:
    """Letters of qstat(1): d deletion, E error, s S T N suspended, r t running, q queued."""
    if any(letter in state for letter in "dEsSTN"):
        return _S
    return _R if any(letter in state for letter in "rt") and "q" not in state else _P


def _json(said: str, kind: type[Any] = dict) -> Any:
    try:
        found = json.loads(said)
    except ValueError as exc:
        raise Unreachable(f"its answer is no JSON: {exc}") from exc
    if not isinstance(found, kind):
        raise Unreachable(f"its answer is no {kind.__name__}: {said[:80]!r}")
    return found


def _table(of: Mapping[str, Any], key: str) -> Mapping[str, Mapping[str, Any]]:
    found = of.get(key, {})
    return {k: v for k, v in found.items() if isinstance(v, dict)} if found else {}


def _rows(found: object) -> list[Mapping[str, Any]]:
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
