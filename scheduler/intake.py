"""From what a person submits to what is written down: check, plan, refuse. Reads no file."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scsched.cluster.pools import Market, Pool
from scsched.db import models
from scsched.db.submissions import NewStep, NewWorkflow
from scsched.scheduler import play
from scsched.scheduler.broker import Placement, Unplaceable, Want, feasible
from scsched.scheduler.config import Settings
from scsched.scheduler.limits import MAX_KEY, MAX_NAME, MAX_PRIORITY, MAX_WORD
from scsched.steps.errors import ConfigError, Infeasible, UsageError
from scsched.steps.scipion import read_workflow, scipion_document, selected
from scsched.steps.spec import ResourceClass, Step, Warned, Workflow

NAME_PATTERN = rf"^[^\x00-\x1f\x7f/]{{1,{MAX_NAME}}}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
PATH = r"^[^\x00]+$"
Word = Annotated[str, Field(pattern=PRINTABLE, max_length=MAX_WORD)]


class Submission(BaseModel):
    """The body of POST /v1/workflows."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    document: str
    filename: str = "workflow.json"
    name: str = Field(pattern=NAME_PATTERN)
    project: str | None = Field(default=None, pattern=PATH, max_length=4096)
    market: Market | None = None
    params: dict[str, str] = {}
    environ: dict[str, str] = {}
    """What `%(NAME)s` in a template stands for; of the submitter, never ours."""
    maps: dict[str, ResourceClass] = {}
    from_: tuple[str, ...] = Field(default=(), alias="from")
    until: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    hold: bool = False
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    tags: dict[Word, Word] = {}
    key: str = Field(default="", max_length=MAX_KEY)
    play_spot: str | None = None
    exact: models.Exact = models.Exact.AUTO
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What a step would get if nothing else were running."""

    step: Step
    placement: Placement | None
    """None: it needs no node, a person does it."""
    usd_per_hour: Decimal = Decimal(0)
    """Of all its nodes, at the prices of now."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A submission that was checked and can run here."""

    new: NewWorkflow
    plan: tuple[PlannedStep, ...]
    warnings: tuple[Warned, ...]


def take(
    body: Submission,
    *,
    uid: int,
    username: str,
    settings: Settings,
    pools: Sequence[Pool],
    prices: Mapping[str, Decimal],
) -> Taken:
    """Check the submission and plan it.

    :param prices: US dollars an hour of a node now, by pool name.

    :raises WorkflowError: the file is wrong.
    :raises UsageError: an argument makes no sense.
    :raises Infeasible: a step fits no pool.
    :raises ConfigError: the site has no Scipion; a dry run is only warned.
    """
    whole = read_workflow(
        body.document.encode("utf-8", "surrogatepass"),
        filename=body.filename,
        params=body.params,
        maps=body.maps,
        site=settings.site_classes(),
        environ=body.environ,
    )
    part = selected(whole, body.from_, body.until, body.only)
    market = body.market or settings.default_market
    if body.play_spot is not None:
        _check_play(body.play_spot, part, market)
    plan = tuple(_planned(step, market, body.project, pools, prices) for step in part.steps)
    site = _site_notes(settings, dry_run=body.dry_run)
    new = NewWorkflow(
        uid=uid,
        username=username,
        name=body.name,
        document=scipion_document(whole),
        filename=body.filename,
        steps=tuple(_new_step(step) for step in part.steps),
        key=body.key or secrets.token_hex(16),
        sha256=_digest(body),
        project=body.project,
        market=models.Market(market),
        priority=body.priority,
        held=body.hold,
        exact=body.exact,
        tags=body.tags,
        play_spot=body.play_spot,
    )
    return Taken(new=new, plan=plan, warnings=(*whole.warnings, *_notes(plan, pools), *site))


def scipion_python(settings: Settings) -> Path:
    """The Python that every step needs.

    :raises ConfigError: the site names none.
    """
    if settings.scipion.python is None:
        raise ConfigError(
            "scipion.python is not set",
            hint="no step can run without it: scsched setup scipion, and start the broker again",
        )
    return settings.scipion.python


def _site_notes(settings: Settings, *, dry_run: bool) -> Sequence[Warned]:
    """Of a dry run, what would refuse this if it were none.

    :raises ConfigError: it is none, and the site has no Scipion.
    """
    try:
        scipion_python(settings)
    except ConfigError as exc:
        if not dry_run:
            raise
        return (Warned("$", f"{exc}: {exc.hint}"),)
    return ()


def _digest(body: Submission) -> str:
    """Of everything that was asked for, but for how often it was asked."""
    asked = body.model_dump(mode="json", exclude={"key", "dry_run"})
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _check_play(schedule: str, workflow: Workflow, market: Market) -> None:
    refs = {step.id for step in workflow.steps}
    for entry in play.parse(schedule):
        if entry.step is not None and entry.step not in refs:
            raise UsageError(f"--play-spot: step {entry.step} is not among those that run")
    if market is not Market.SPOT:
        raise UsageError("--play-spot: only spot nodes are taken back; add --spot")


def _planned(
    step: Step,
    market: Market,
    project: str | None,
    pools: Sequence[Pool],
    prices: Mapping[str, Decimal],
) -> PlannedStep:
    want = Want(
        step_id=0,
        workflow_id=0,
        resource_class=step.resource_class,
        demand=step.demand,
        market=market,
        long_lived=step.long_lived,
        project=project,
    )
    found = feasible(want, pools, prices)
    if isinstance(found, Unplaceable):
        raise Infeasible(
            f"step {step.id} ({step.label or step.protocol}): {found.detail}",
            hint="add a pool that fits to the configuration, or leave the step out with --until",
        )
    each = prices.get(found.pool.name, found.pool.usd_per_hour)
    return PlannedStep(step, found, found.layout.nodes * each)


def _notes(plan: Sequence[PlannedStep], pools: Sequence[Pool]) -> Sequence[Warned]:
    if any(pool.gpus for pool in pools):
        return ()
    wanting = [one.step.id for one in plan if one.step.demand.gpus]
    if not wanting:
        return ()
    return (Warned("$", f"no pool has a GPU: steps {', '.join(wanting)} run on the CPU"),)


def _new_step(step: Step) -> NewStep:
    return NewStep(
        ref=step.id,
        label=step.label,
        protocol=step.protocol,
        resource_class=step.resource_class,
        resume=step.resume,
        demand=step.demand,
        gate=step.gate,
        long_lived=step.long_lived,
        parents=step.parents,
    )
