"""What Slurm says: jobs, steps, accounts, partitions. Asks, and changes nothing."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster.batch import errors, jobs, states
from scsched.cluster.batch.commands import Commands
from scsched.cluster.batch.jobs import Job
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.provider import ProviderError

_log = logging.getLogger(__name__)
_PAST_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Partition:
    """As far as a launch must know it."""

    state: str
    """UP, DOWN, DRAIN or INACTIVE."""
    grace_s: float
    """From SIGTERM to the end of a job that is taken back."""


def commands(site: SiteOptions, timeout_s: float = 10.0) -> Commands:
    """Slurm's, as this host has them."""
    conf = site.conf or os.environ.get("SLURM_CONF", "")
    return Commands(
        translate=errors.of_slurm,
        folder=site.commands,
        environ={"SLURM_CONF": conf} if conf else None,
        timeout_s=timeout_s,
    )


class Queue:
    """Slurm as one deployment sees it."""

    def __init__(self, ask: Callable[..., str], deployment: str) -> None:
        """:param ask: runs a command and returns its answer, or raises ProviderError."""
        self._ask = ask
        self._deployment = deployment
        self._settings: Mapping[str, str] | None = None
        self._last: tuple[float, Sequence[Job]] = (float("-inf"), ())
        self._past: tuple[float, Sequence[Job]] = (float("-inf"), ())

    def jobs(self, age_s: float = 0.0) -> Sequence[Job]:
        """Our jobs that squeue has; what was heard up to `age_s` ago is good enough."""
        if time.monotonic() - self._last[0] >= age_s:
            found = jobs.queued(self._ask, self._deployment)
            self._last = (time.monotonic(), found)
        return self._last[1]

    def everything(self, *, refresh: bool = False) -> Sequence[Job]:
        """Our jobs that squeue has, and the ended ones that only the accounts still have.

        :param refresh: the accounts of a minute ago will not do.
        """
        listed = self.jobs()
        known = {job.job_id for job in listed}
        return [*listed, *(job for job in self.past(refresh=refresh) if job.job_id not in known)]

    def past(self, *, refresh: bool = False) -> Sequence[Job]:
        """Ended jobs that squeue may have forgotten; none where the site keeps no accounts.

        Slurm goes on without its database, and so do we, with what was heard last.
        """
        if not self.has_accounts():
            return ()
        if refresh or time.monotonic() - self._past[0] > _PAST_EVERY_S:
            try:
                found = jobs.past(self._ask, self._deployment)
            except ProviderError as exc:
                _log.warning("no accounts of ended jobs: %s", exc)
                found = self._past[1]
            self._past = (time.monotonic(), [job for job in found if states.is_over(job)])
        return self._past[1]

    def steps(self, found: Iterable[Job]) -> Mapping[int, Mapping[int, str]]:
        """Ids of live steps by place, of running jobs of several nodes: others need no look."""
        gangs = {job.job_id for job in found if len(job.mark.places) > 1 and job.state == "RUNNING"}
        by_job: dict[int, dict[int, str]] = {job_id: {} for job_id in gangs}
        for step in jobs.steps(self._ask) if gangs else ():
            if step.job_id in gangs:
                by_job[step.job_id][step.place] = step.step
        return by_job

    def partition(self, name: str) -> Partition:
        """Without a grace time of its own a partition has the one before any kill."""
        said = self._ask("scontrol", "--oneliner", "show", "partition", name)
        told = dict(word.split("=", 1) for word in said.split() if "=" in word)
        grace = _seconds(told.get("GraceTime", ""))
        return Partition(told.get("State", "UP"), grace or self.kill_wait_s())

    def has_accounts(self) -> bool:
        """Whether the site keeps accounts of ended jobs."""
        return not self.setting("AccountingStorageType").endswith("none")

    def setting(self, key: str) -> str:
        """Of Slurm's own configuration; empty where it has none."""
        return self._config().get(key, "")

    def kill_wait_s(self) -> float:
        """From the first signal to a job that is cancelled until the kill."""
        return _seconds(self.setting("KillWait"))

    def _config(self) -> Mapping[str, str]:
        if self._settings is None:
            pairs = (
                line.partition("=") for line in self._ask("scontrol", "show", "config").splitlines()
            )
            self._settings = {key.strip(): value.strip() for key, _, value in pairs}
        return self._settings


def _seconds(text: str | None) -> float:
    """Of `30` or `30 sec`; 0 of words."""
    number = (text or "").partition(" ")[0]
    return float(number) if number.isdecimal() else 0.0
