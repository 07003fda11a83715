"""How a run ended, from what its program left: the report that the broker judges."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsched.scheduler.driver import watch
from scsched.scheduler.driver.keeper import Finished, KeeperError, Prepared
from scsched.scheduler.driver.project import Project
from scsched.scheduler.protocol import EndReport, Hint, InputReport, RunOrder
from scsched.steps.errors import ScschedError

log = logging.getLogger("scsched.driver")


DETAIL_CHARS = 7000
"""Of the last words; the broker takes 8000."""
TELL_S = 60.0
"""So long an end waits for Scipion to hear of it: the nodes are paid for meanwhile."""
COUNT_S = 300.0
"""So long for its iterations to be counted; a set of millions of particles takes a minute."""


@dataclass(slots=True)
class Trace:
    """What is known of a run so far."""

    prepared: Prepared | None = None
    progress: dict[str, Any] | None = None
    began: bool = False
    """Its program was started."""
    stopping: str = ""
    """Why it is to end; empty: it is not."""
    in_time: bool = False
    """It was stopped between two iterations: none is lost."""

    @property
    def job_dir(self) -> Path | None:
        return self.prepared.job_dir if self.prepared is not None else None


def end_of(hint: Hint, detail: str) -> EndReport:
    """An end of which nothing is counted."""
    return EndReport(hint=hint, detail=_fit(detail))


class Outcome:
    """Asks Scipion, and reads the files of the run."""

    def __init__(self, order: RunOrder, project: Project, trace: Trace) -> None:
        self._order = order
        self._project = project
        self._trace = trace

    async def taken_over(self) -> EndReport:
        """A person did it in Scipion: nothing is run, but it has to be there."""
        finished = await self._finish()
        if finished.status == "finished" and not finished.error:
            return EndReport(hint=Hint.COMPLETED, exit_code=0, detail=_fit(finished.summary))
        return EndReport(
            hint=Hint.FAILED,
            detail=f"in Scipion it is {finished.status}, not finished: "
            "do it there, then resubmit this step",
        )

    async def of(
        self, prepared: Prepared, result: Mapping[str, Any], completing: Callable[[], None]
    ) -> EndReport:
        """Of an attempt that ended by itself. Exit code 0 is not success: the outputs have to be
        there.

        :param completing: called when they are about to be checked.
        """
        if result["timed_out"]:
            return await self.bad(Hint.TIMEOUT, result, "wall time used up")
        if result["exit_code"] == 0:
            # Scipion ends with 0 also when its protocol has failed.
            finished = await self._finish()
            if finished.status != "finished":
                return await self._failed_inside(prepared, result, finished.error)
            completing()
            problem = finished.error or await asyncio.to_thread(
                watch.output_problem, prepared, finished
            )
            if not problem:
                end = await self._with_iterations(Hint.COMPLETED, result, finished.summary)
                return end.model_copy(update={"inputs": await self._made_inputs()})
            return await self.bad(Hint.FAILED, result, problem)
        detail = await asyncio.to_thread(watch.last_words, prepared, result)
        return await self.bad(_hint_of_failure(result), result, detail)

    async def bad(self, hint: Hint, result: Mapping[str, Any], detail: str) -> EndReport:
        """Of one that failed or was ended; Scipion is told."""
        message = detail.splitlines()[-1] if detail else str(hint)
        telling = self._project.fail(self._order.ref, message, aborted=hint is Hint.STOPPED)
        try:
            await asyncio.wait_for(telling, TELL_S)
        except (KeeperError, OSError) as exc:  # the end itself is what the broker has to know
            log.warning("run %d: Scipion was not told of its end: %r", self._order.run, exc)
        return await self._with_iterations(hint, result, detail)

    async def _failed_inside(
        self, prepared: Prepared, result: Mapping[str, Any], error: str
    ) -> EndReport:
        """A program that Scipion had started failed; what Scipion says of it is the last line."""
        told = {**result, "exit_code": watch.exit_code_in(error, result["exit_code"])}
        detail = await asyncio.to_thread(watch.words_and, prepared, error)
        return await self.bad(_hint_of_failure(result), told, detail)

    async def _made_inputs(self) -> dict[str, InputReport]:
        """How large the inputs of the next steps are: their memory follows from it."""
        made = {}
        for child in self._project.children(self._order.ref):
            try:
                inputs = await self._project.inputs(child)
            except KeeperError as exc:  # it starts with what is known from its parameters
                log.warning("run %d: inputs of step %s: %s", self._order.run, child, exc)
                continue
            made[child] = InputReport(particles=inputs.particles, box_px=inputs.box_px)
        return made

    async def _with_iterations(
        self, hint: Hint, result: Mapping[str, Any], detail: str
    ) -> EndReport:
        trace, told = self._trace, await self._iterations()
        return EndReport(
            hint=hint,
            exit_code=result.get("exit_code"),
            signal=result.get("signal"),
            detail=_fit(detail),
            resumed_from=told.resumed_from,
            iterations_done=told.done,
            iterations_lost=0 if hint is Hint.COMPLETED or trace.in_time else told.lost,
        )

    async def _finish(self) -> Finished:
        return await self._project.finish(self._order.ref, stopping=lambda: self._trace.stopping)

    async def _iterations(self) -> watch.Iterations:
        """None where they cannot be read, or not in time: the broker has the last progress."""
        trace = self._trace
        if trace.prepared is None or not trace.began:
            return watch.Iterations()
        counting = asyncio.to_thread(
            watch.iterations, trace.prepared, trace.progress, self._order.attempt
        )
        try:
            return await asyncio.wait_for(counting, COUNT_S)
        except (OSError, ScschedError) as exc:
            log.warning("run %d: its iterations were not counted: %r", self._order.run, exc)
            return watch.Iterations()


def _hint_of_failure(result: Mapping[str, Any]) -> Hint:
    return Hint.OUT_OF_MEMORY if result.get("oom") else Hint.FAILED


def _fit(detail: str) -> str:
    """As a report may hold it, and a database: PostgreSQL takes no zero bytes."""
    return detail.replace("\0", "")[-DETAIL_CHARS:]
