"""Beats that cannot be written down are set aside: one workflow does not hold up the others.

beat ──written──► as it is
  └──refused──► bare: which nodes are there, which runs go on or have ended; without any more words
                  └──refused──► nothing of it, until its driver says something else
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from scsched.db.events import event, record
from scsched.db.session import Session
from scsched.scheduler.presence import Sight
from scsched.scheduler.protocol import Beat, EndReport, NodeReport, RunReport
from scsched.steps.errors import StoreBusy, StoreError, StoreFull, StoreLost

log = logging.getLogger("scsched.aside")

BAD_DATA = (StoreError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError)
"""What a value raises that is none for a column, or none to count with."""
PASSING = (StoreBusy, StoreFull, StoreLost)
"""No value is to blame for these."""


class Aside:
    """Remembers what was set aside: a driver repeats itself twice a second."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Beat, Beat | None]] = {}
        """By workflow: the beat, and what is read in its stead."""
        self._told: dict[int, str] = {}
        """By workflow, the token of the last driver of which it was told."""

    def read(self, beats: Mapping[int, Beat]) -> Mapping[int, Beat]:
        """The same, with what stands for those set aside."""
        self._known = {w: one for w, one in self._known.items() if beats.get(w) == one[0]}
        read = {w: self._known[w][1] if w in self._known else beat for w, beat in beats.items()}
        return {w: beat for w, beat in read.items() if beat is not None}

    def put(self, workflow_id: int, beat: Beat) -> Beat | None:
        """Set a beat aside; what to read in its stead."""
        known = self._known.get(workflow_id)
        first, instead = (known[0], None) if known else (beat, _bare(beat))
        self._known[workflow_id] = (first, instead)
        return instead

    def tell(
        self, session: Session, workflow_id: int, beat: Beat, why: Exception, now: datetime
    ) -> None:
        """Once for each driver."""
        if self._told.get(workflow_id) == beat.token:
            return
        self._told[workflow_id] = beat.token
        text = f"a report of its driver cannot be kept and is set aside: {_line(why)}"
        log.error("workflow %d: %s", workflow_id, text)
        record(session, now, [event("report_set_aside", text, workflow_id=workflow_id)])


def parts_of(sight: Sight) -> Iterable[tuple[int, Sight]]:
    """What is seen of each workflow."""
    owners = {run.workflow_id for run in sight.runs}
    owners |= {node.workflow_id for node in sight.nodes.values()} | sight.beats.keys()
    for owner in sorted(owners):
        yield (
            owner,
            replace(
                sight,
                beats={w: beat for w, beat in sight.beats.items() if w == owner},
                runs=[run for run in sight.runs if run.workflow_id == owner],
                nodes={key: one for key, one in sight.nodes.items() if one.workflow_id == owner},
            ),
        )


def _bare(beat: Beat) -> Beat:
    return beat.model_copy(
        update={
            "project": None,
            "problem": "",
            "storage": None,
            "nodes": tuple(NodeReport(name=node.name) for node in beat.nodes),
            "runs": tuple(_bare_run(report) for report in beat.runs),
        }
    )


def _bare_run(report: RunReport) -> RunReport:
    words = "its driver's report of its end could not be kept"
    end = EndReport(hint=report.end.hint, detail=words) if report.end is not None else None
    return RunReport(run=report.run, epoch=report.epoch, phase=report.phase, end=end)


def _line(why: Exception) -> str:
    lines = str(why).replace("\0", "").splitlines()
    return lines[0][:200] if lines else type(why).__name__
