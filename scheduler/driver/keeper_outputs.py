"""What a Scipion protocol read and what it made, and whether that is as it says.

`keeper_side.py` loads this file by path, under Scipion's Python, after `keeper_checks.py`.
"""

import importlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
checks: Any = importlib.import_module("keeper_checks")

CLASSIFICATIONS = ("ProtRelionClassify2D", "ProtRelionClassify3D")


def inputs_of(prot: Any) -> Json:
    """Its inputs that are there: how many particles, their box in pixels, Å per pixel."""
    values = [(name, pointer.get()) for name, pointer in prot.iterInputAttributes()]
    rows = [{"name": name, **_facts(value)} for name, value in values if value is not None]
    particles = [row for row in rows if row["class"] == "SetOfParticles"]
    maps = [row for row in rows if row["class"] in ("Volume", "VolumeMask")]
    sized = [row for row in [*particles, *maps] if row["dims"]]
    return {
        "rows": rows,
        "particles": particles[0]["items"] if particles else None,
        "box_px": sized[0]["dims"][0] if sized else None,
        "sampling_a": next((row["sampling_a"] for row in rows if row["sampling_a"]), None),
    }


def _facts(value: Any) -> Json:
    return {
        "class": value.getClassName(),
        "items": _quiet(lambda: int(value.getSize())),
        "dims": _quiet(lambda: [int(side) for side in value.getDim()]),
        "sampling_a": _quiet(lambda: float(value.getSamplingRate())),
    }


def output(name: str, value: Any, prot: Any) -> Json:
    """One output, with what is wrong with its files under "problem"; empty: nothing is."""
    row = {"name": name, **_facts(value), "text": _quiet(lambda: str(value)) or ""}
    try:
        row["problem"] = _missing(value, prot.getWorkingDir())
    except (OSError, sqlite3.Error, ValueError) as exc:
        row["problem"] = f"{type(exc).__name__}: {exc}"
    _quiet(lambda: value.close())  # not every output has it
    return row


def _missing(value: Any, own: str) -> str:
    """What of this output is not on disk as its object says; empty: all is there."""
    file = value.getFileName() if hasattr(value, "getFileName") else ""
    if not file:
        return ""
    if hasattr(value, "getSize"):
        return str(checks.set_problem(Path(file), value.getSize(), f"{own}/"))
    halves = value.getHalfMaps() if hasattr(value, "getHalfMaps") else ""
    files = [file, *filter(None, (halves or "").split(","))]
    return next(filter(None, map(checks.image_problem, files)), "")


def problems(prot: Any, outputs: list[Json]) -> list[str]:
    """Why the protocol is not well finished though its status says so."""
    found = [f"{row['name']}: {row['problem']}" for row in outputs if row["problem"]]
    if found or not prot.isFinished():
        return found
    if not outputs and prot.getPossibleOutputs():
        return ["it finished without any output"]
    if prot.getClassName() in (*CLASSIFICATIONS, "ProtRelionRefine3D"):
        return _lost_particles(prot, outputs) + _stale(prot, outputs)
    return []


def _lost_particles(prot: Any, outputs: list[Json]) -> list[str]:
    """These protocols neither lose nor add a particle."""
    wanted = inputs_of(prot)["particles"]
    found = []
    for row in outputs:
        items = row["items"]
        if row["class"].startswith("SetOfClasses"):
            items = checks.members(Path(getattr(prot, row["name"]).getFileName()))
        elif row["class"] != "SetOfParticles":
            continue
        if None not in (wanted, items) and items != wanted:
            found.append(f"{row['name']}: {items} particles came out, {wanted} went in")
    return found


def _stale(prot: Any, outputs: list[Json]) -> list[str]:
    """Scipion takes the highest iteration it sees, also one left by an attempt that was killed."""
    if prot.getClassName() not in CLASSIFICATIONS or prot.doContinue or _by_gradient(prot):
        return []
    last = prot.numberOfIterations.get()
    found = []
    for row in outputs:
        if row["class"].startswith("SetOfClasses"):
            seen = checks.iterations(Path(getattr(prot, row["name"]).getFileName()))
            if seen and seen != {last}:
                found.append(f"{row['name']}: from iteration {max(seen)} of {last}")
    return found


def _by_gradient(prot: Any) -> bool:
    return bool(_quiet(lambda: prot.useGradientAlg.get()))


def error(prot: Any) -> str:
    """Why it is not finished; empty: it is."""
    if prot.isFinished():
        return ""
    if prot.isActive():
        return f"its process ended while the protocol was {prot.getStatus()}"
    return prot.getErrorMessage() or f"the protocol is {prot.getStatus()}"


def _quiet(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception:
        return None
