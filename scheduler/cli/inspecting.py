"""`scsched inspect`: the file as the broker would read it. Needs no broker."""

from __future__ import annotations

import os
from collections.abc import Mapping

from scsched.scheduler import paths
from scsched.scheduler.render import Column, clean, put_json, table, talk
from scsched.steps import scipion
from scsched.steps.classes import ClassInfo
from scsched.steps.spec import Demand, ResourceClass, Step, Workflow

_COLUMNS = (
    Column("id", lambda step: step.id, right=True),
    Column("label", lambda step: step.label, flexible=True),
    Column("protocol", lambda step: step.protocol),
    Column("class", lambda step: str(step.resource_class)),
    Column("needs", lambda step: demand(step.demand)),
    Column("resume", lambda step: str(step.resume)),
    Column("after", lambda step: ",".join(step.parents)),
    Column("gate", lambda step: step.gate, flexible=True, dispensable=True),
)


def inspect(
    raw: bytes,
    *,
    filename: str,
    params: Mapping[str, str],
    maps: Mapping[str, ResourceClass],
    as_json: bool,
) -> int:
    """Print the steps in an order in which they may run; returns the exit code.

    :raises WorkflowError: the file is refused.
    """
    workflow = scipion.read_workflow(
        raw,
        filename=filename,
        params=params,
        maps=maps,
        site=_site_classes(),
        environ=os.environ,
    )
    if as_json:
        put_json(scipion.to_json(workflow))
        return 0
    table(_COLUMNS, workflow.steps)
    _say(workflow)
    return 0


def _site_classes() -> Mapping[str, ClassInfo]:
    """What the site's configuration adds; without a file nothing, and nothing is imported."""
    if paths.config_file() is None:
        return {}
    from scsched.scheduler import config

    return config.load().site_classes()


def demand(wanted: Demand) -> str:
    """`3 ranks x 4 threads, 2 GPUs, 1.5 GiB each`."""
    parts = [
        f"{wanted.ranks} ranks x {_count(wanted.threads, 'thread')}"
        if wanted.ranks > 1
        else _count(wanted.threads, "thread"),
        _count(wanted.gpus, "GPU") if wanted.gpus else "",
        f"{wanted.memory_gib:.1f} GiB" + (" each" if wanted.ranks > 1 else ""),
        f"{wanted.particles} particles" if wanted.particles else "",
        f"box {wanted.box_px}" if wanted.box_px else "",
        f"{wanted.iterations} iterations" if wanted.iterations else "",
    ]
    return ", ".join(part for part in parts if part)


def _say(workflow: Workflow) -> None:
    for warned in workflow.warnings:
        talk(f"warning: {clean(warned.where)}: {clean(warned.problem)}")
    for step in workflow.steps:
        if step.gate:
            talk(f"gate: {clean(_named(step))}: {clean(step.gate)}")
    gates = sum(bool(step.gate) for step in workflow.steps)
    counts = [
        _count(len(workflow.steps), "step"),
        _count(len(workflow.edges), "edge"),
        _count(gates, "gate"),
        _count(len(workflow.warnings), "warning"),
    ]
    talk(", ".join(counts))


def _named(step: Step) -> str:
    return f"{step.id} {step.label}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
