"""Random workflows of real protocol classes, as Scipion exports them."""

import json
import random
from dataclasses import dataclass

LABEL = 'it\'s "a" label; $(touch x) {0}'


@dataclass(frozen=True, slots=True)
class Sizes:
    fewest: int = 4
    most: int = 9
    gang_share: float = 0.25
    """Of the classifications: three ranks, which take two nodes."""
    light_share: float = 0.15


def document(chance: random.Random, sizes: Sizes | None = None) -> str:
    """The text of a workflow file: imports, and classifications of what they import."""
    sizes = sizes or Sizes()
    ids = chance.sample(range(1, 10_000), chance.randint(sizes.fewest, sizes.most))
    made: list[dict[str, object]] = [_import(ids[0])]
    imports = [ids[0]]
    for position, object_id in enumerate(ids[1:], start=1):
        drawn = chance.random()
        if drawn < 0.2:
            imports.append(object_id)
            step = _import(object_id)
        elif drawn < 0.2 + sizes.light_share:
            step = _light(object_id)
        else:
            ranks = 3 if chance.random() < sizes.gang_share else 1
            step = _classify(object_id, chance.choice(imports), ranks)
        before = chance.sample(ids[:position], chance.randint(0, min(2, position)))
        made.append({**step, "_prerequisites": [str(one) for one in before]})
    chance.shuffle(made)
    return json.dumps(made)


def _import(object_id: int) -> dict[str, object]:
    return _step(object_id, "ProtImportParticles")


def _light(object_id: int) -> dict[str, object]:
    return _step(object_id, "ProtSubSet")


def _classify(object_id: int, source: int, ranks: int) -> dict[str, object]:
    return {
        **_step(object_id, "ProtRelionClassify2D"),
        "inputParticles": f"{source}.outputParticles",
        "numberOfMpi": ranks,
        "numberOfThreads": 1,
        "doGpu": False,
    }


def _step(object_id: int, protocol: str) -> dict[str, object]:
    return {
        "object.id": str(object_id),
        "object.className": protocol,
        "object.label": LABEL.format(object_id),
    }
