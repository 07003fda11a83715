"""Writes a workflow out: as JSON for `scsched inspect`, and as the document that Scipion loads."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from scsched.steps import classes, pointers
from scsched.steps.classes import ClassInfo
from scsched.steps.spec import Step, Workflow


def to_json(workflow: Workflow) -> dict[str, object]:
    """What `scsched inspect --json` prints."""
    return {
        "schema": "scsched/v1",
        "steps": [_step_json(step) for step in workflow.steps],
        "edges": [asdict(edge) for edge in workflow.edges],
        "warnings": [asdict(warning) for warning in workflow.warnings],
        "counts": {
            "steps": len(workflow.steps),
            "edges": len(workflow.edges),
            "gates": sum(bool(step.gate) for step in workflow.steps),
            "classes": Counter(str(step.resource_class) for step in workflow.steps),
            "protocols": len({step.protocol for step in workflow.steps}),
        },
    }


def scipion_document(
    workflow: Workflow,
    *,
    site: Mapping[str, ClassInfo] | None = None,
    partial: bool = False,
) -> str:
    """JSON text for Scipion's `loadProtocols`, in the order of the workflow.

    :param partial: it goes into a project that holds the protocols which the workflow lacks.
        Otherwise references to those are emptied: the loader would look their ids up among the
        new numbers that it has just given, and bind them to any protocol.

    Today's spellings: class names, pointers, the list of GPUs. No step uses Scipion's queue, since
    scsched is the queue; and all may continue (runMode 0), since a restart would wipe checkpoints.
    """
    ids = {step.id for step in workflow.steps}
    steps = [_document_step(step, ids, site or {}) for step in workflow.steps]
    if not partial:
        steps = [{key: _whole(key, value, ids) for key, value in step.items()} for step in steps]
    return json.dumps(steps)


def _whole(key: str, value: object, ids: set[str]) -> object:
    if isinstance(value, list):
        return [item for item in value if not pointers.dangles(key, [item], ids)]
    is_text = isinstance(value, str)
    return None if is_text and pointers.dangles(key, value, ids) else value


def _step_json(step: Step) -> dict[str, object]:
    return {
        "id": step.id,
        "label": step.label,
        "protocol": step.protocol,
        "class": str(step.resource_class),
        "gate": step.gate or None,
        "demand": asdict(step.demand) | {"shape": str(step.demand.shape)},
        "resume": str(step.resume),
        "long_lived": step.long_lived,
        "parents": list(step.parents),
    }


def _document_step(step: Step, ids: set[str], site: Mapping[str, ClassInfo]) -> dict[str, object]:
    info = classes.find(step.protocol, site=site)
    values = {key: pointers.today(value) for key, value in step.params.items()}
    if "GPUIDs" in values:
        values.setdefault("gpuList", values["GPUIDs"])
    wait_for = pointers.prerequisites(step.params.get(pointers.PREREQUISITES))
    return values | {
        "object.className": info.today if info and info.today else step.protocol,
        "object.id": step.id,
        "object.label": step.label,
        pointers.PREREQUISITES: ",".join(parent for parent in wait_for if parent in ids),
        "_useQueue": False,
        "_queueParams": None,
        "runMode": 0,
    }
