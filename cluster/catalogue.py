"""Shapes of the clouds' instance types, from `catalogue.tsv`."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one machine has. `cores` are what its operating system counts (vCPUs)."""

    cores: int
    memory_gib: float
    gpus: int = 0
    vram_gib: float = 0.0
    """Of one GPU."""


def least(provider_kind: str, types: Sequence[str]) -> Shape | None:
    """What every one of these types has at least; None: one of them is not known, or none named."""
    known = [_table().get((provider_kind, name)) for name in types]
    shapes = [shape for shape in known if shape is not None]
    if not shapes or len(shapes) < len(known):
        return None
    return Shape(
        cores=min(shape.cores for shape in shapes),
        memory_gib=min(shape.memory_gib for shape in shapes),
        gpus=min(shape.gpus for shape in shapes),
        vram_gib=min(shape.vram_gib for shape in shapes),
    )


@cache
def _table() -> Mapping[tuple[str, str], Shape]:
    with (Path(__file__).parent / "catalogue.tsv").open(encoding="ascii", newline="") as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return {
            (row["provider"], row["type"]): Shape(
                cores=int(row["cores"]),
                memory_gib=float(row["memory_gib"]),
                gpus=int(row["gpus"]),
                vram_gib=float(row["vram_gib"]),
            )
            for row in rows
        }
