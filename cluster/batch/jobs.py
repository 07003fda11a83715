"""Slurm's jobs as its commands list them, and the mark by which ours are known.

The mark is the job's comment: deployment, gang, the places in it that its nodes have, and pool,
then what we have done to it since: which members we asked to end, and why it is over. Comments are
anybody's to write, so a line counts only when it begins with a word that was made up for this very
call; who else copies a mark gets a job with a higher number, and of one member the lowest counts.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_WORD = "scsched"
_COLUMNS = {
    "JobID": 24,
    "UserID": 16,
    "RestartCnt": 8,
    "State": 24,
    "Partition": 80,
    "SubmitTime": 24,
    "StartTime": 24,
    "EndTime": 24,
    "Reason": 48,
    "Comment": 512,
}
_SACCT = ("JobIDRaw", "UID", "State", "Partition", "Submit", "Start", "End", "JobName")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a job of ours says of itself."""

    deployment: str
    gang: str
    places: tuple[int, ...]
    """Of its nodes in the gang."""
    pool: str = ""
    ended: frozenset[int] = frozenset()
    """Members that we have asked to end."""
    why: str = ""
    """Why it was over, when that was known before it ended."""

    def __str__(self) -> str:
        words = [_WORD, self.deployment, self.gang, _list(self.places), self.pool or "-"]
        if self.ended:
            words.append(f"ended={_list(sorted(self.ended))}")
        if self.why:
            words.append(f"why={self.why}")
        return " ".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of ours. Times as Slurm has them; `ends_at` of a live one is when its time is up."""

    job_id: int
    uid: int
    mark: Mark
    state: str
    """Slurm's word, e.g. RUNNING."""
    partition: str = ""
    reason: str = ""
    restarts: int = 0
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The live step of one member."""

    job_id: int
    step: str
    place: int


def mark_of(comment: str) -> Mark | None:
    """None: it is not one of ours."""
    words = comment.split()
    if len(words) < 5 or words[0] != _WORD or not is_word(words[2]):
        return None
    places = _numbers(words[3], ",")
    if not places:
        return None
    said = dict(word.split("=", 1) for word in words[5:] if "=" in word)
    return Mark(
        deployment=words[1],
        gang=words[2],
        places=places,
        pool="" if words[4] == "-" else words[4],
        ended=frozenset(_numbers(said.get("ended", ""), ",")),
        why=said.get("why", ""),
    )


def is_word(text: str) -> bool:
    """Whether it can be a token, and so stand in a comment as one word."""
    return text.isascii() and text.replace("-", "").isalnum()


def job_name(first: str, mark: Mark) -> str:
    """Of a job: accounting keeps names, but not always comments.

    :param first: name of its first node, for people.
    """
    return f"{first}.{mark.deployment}.{'_'.join([mark.gang, *map(str, mark.places)])}"


def queued(ask: Callable[..., str], deployment: str) -> Sequence[Job]:
    """All jobs of the deployment that Slurm still has, ended ones for its MinJobAge."""
    seal = secrets.token_hex(8)
    first, *others = _COLUMNS.items()
    layout = ",".join([f"{first[0]}:{first[1]};{seal};", *(f"{n}:{w};" for n, w in others)])
    said = ask("squeue", "--noheader", "--all", "--states=all", f"--Format={layout}")
    rows = (_fields(line, seal) for line in said.splitlines())
    return _ours((_queued_job(row) for row in rows if row), deployment)


def past(ask: Callable[..., str], deployment: str) -> Sequence[Job]:
    """Jobs of the deployment that have ended within the last hour, where there is accounting."""
    seal = secrets.token_hex(8)
    said = ask(
        *("sacct", "--allusers", "--noheader", "--parsable2", "--allocations"),
        *(f"--delimiter={seal}", "--starttime=now-1hours", f"--format={','.join(_SACCT)}"),
    )
    rows = (line.split(seal) for line in said.splitlines())
    found = [_past_job(dict(zip(_SACCT, row, strict=True))) for row in rows if len(row) == 8]
    return _ours(found, deployment)


def steps(ask: Callable[..., str]) -> Sequence[Step]:
    """The live steps that are members of ours, by their names m0, m1, ..."""
    seal = secrets.token_hex(8)
    said = ask("squeue", "--noheader", "--steps", f"--format={seal} %i %j")
    found = []
    for line in said.splitlines():
        sealed, _, rest = line.strip().partition(" ")
        step, _, name = rest.partition(" ") if sealed == seal else ("", "", "")
        job_id, _, number = step.partition(".")
        if job_id.isdecimal() and number.isdecimal() and name[:1] == "m" and name[1:].isdecimal():
            found.append(Step(int(job_id), step, int(name[1:])))
    return found


def sort_out(jobs: Iterable[Job]) -> tuple[list[Job], list[tuple[Job, Job]]]:
    """The jobs that count, oldest first; and those that double one of them, with that one."""
    members: dict[tuple[str, int], Job] = {}
    counting, doubles = [], []
    for job in sorted(jobs, key=lambda job: job.job_id):
        mine = [(job.mark.gang, place) for place in job.mark.places]
        before = [members[member] for member in mine if member in members]
        if before:
            doubles.append((job, before[0]))
            continue
        members |= dict.fromkeys(mine, job)
        counting.append(job)
    return counting, doubles


def _ours(jobs: Iterable[Job | None], deployment: str) -> list[Job]:
    return [job for job in jobs if job is not None and job.mark.deployment == deployment]


def _fields(line: str, seal: str) -> dict[str, str] | None:
    """Columns have fixed widths: what is in them cannot move the others."""
    width = _COLUMNS["JobID"]
    if line[width : width + len(seal) + 2] != f";{seal};":
        return None
    rest, row = line[width + len(seal) + 2 :], {"JobID": line[:width].strip()}
    for name, size in list(_COLUMNS.items())[1:]:
        row[name], rest = rest[:size].strip(), rest[size + 1 :]
    return row


def _queued_job(row: dict[str, str]) -> Job | None:
    mark = mark_of(row["Comment"])
    if mark is None or not row["JobID"].isdecimal() or not row["UserID"].isdecimal():
        return None
    return Job(
        job_id=int(row["JobID"]),
        uid=int(row["UserID"]),
        mark=mark,
        state=row["State"],
        partition=row["Partition"],
        reason=row["Reason"],
        restarts=int(row["RestartCnt"]) if row["RestartCnt"].isdecimal() else 0,
        submitted_at=_time(row["SubmitTime"]),
        started_at=_time(row["StartTime"]),
        ends_at=_time(row["EndTime"]),
    )


def _past_job(row: dict[str, str]) -> Job | None:
    parts = row["JobName"].rsplit(".", 2)
    gang, _, rest = parts[-1].partition("_")
    places = _numbers(rest, "_")
    if len(parts) != 3 or not places or not (row["JobIDRaw"] + row["UID"]).isdecimal():
        return None
    state, _, by = row["State"].partition(" ")
    return Job(
        job_id=int(row["JobIDRaw"]),
        uid=int(row["UID"]),
        mark=Mark(deployment=parts[1], gang=gang, places=places),
        state=state,
        partition=row["Partition"],
        reason=by,
        submitted_at=_time(row["Submit"]),
        started_at=_time(row["Start"]),
        ends_at=_time(row["End"]),
    )


def _list(places: Iterable[int]) -> str:
    return ",".join(map(str, places))


def _numbers(text: str, separator: str) -> tuple[int, ...]:
    """Empty when it is anything but numbers."""
    words = text.split(separator)
    return tuple(map(int, words)) if all(word.isdecimal() for word in words) else ()


def _time(text: str) -> datetime | None:
    """Slurm prints times of the caller's zone, which is UTC here, and words where it has none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
