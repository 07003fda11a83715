"""What a step needs, from its parameters and, once they exist, from its inputs.

GPU_COUNT and numberOfMpi as Scipion hands them to a queue are often wrong: RELION with doGpu and an
empty gpusToUse counts 0 GPUs, EMAN without useGpu counts 1, and protocols that run their items in
parallel threads ignore numberOfMpi. So the class and the protocol's own switches decide.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from scsched.steps.classes import ClassInfo, GpuNeed, MemoryModel
from scsched.steps.spec import Demand, ResourceClass, Shape

GIB = float(1 << 30)
_SWITCHES = ("doGpu", "useGpu", "doGPU", "useGPU")
_LISTS = ("gpusToUse", "gpuList", "GPUIDs")
_VOID_GPU = 99
"""Scipion's number for "no GPU"."""
_MAX_COUNT = 4096
_MAX_GPUS = 64
_MAX_BOX_PX = 8192
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_FLAT_MEMORY_GIB = {ResourceClass.LIGHT: 0.25, ResourceClass.INTERACTIVE: 0.25}
_OTHER_MEMORY_GIB = 1.0
_BASE_BYTES = 100e6


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a step's input images once the steps before it have run."""

    box_px: int | None = None
    particles: int | None = None


def derive(info: ClassInfo, params: Mapping[str, object], inputs: Inputs | None = None) -> Demand:
    """The demand of a step of this class with these parameters."""
    inputs = inputs or Inputs()
    ranks, threads = _ranks_and_threads(info, params)
    demand = Demand(
        shape=info.shape,
        ranks=ranks,
        threads=threads,
        gpus=_gpus(info, params),
        memory_gib=_FLAT_MEMORY_GIB.get(info.resource_class, _OTHER_MEMORY_GIB),
        box_px=inputs.box_px or _box(params),
        particles=inputs.particles,
        iterations=_iterations(info, params),
    )
    if info.memory is MemoryModel.FLAT or demand.box_px is None:
        return demand
    return _sized(demand, info, params, demand.box_px)


def worker_memory_gib(*, box_px: int, pad: int, classes: int) -> float:
    """Memory of one relion_refine worker in 3D on the CPU, in double precision, at Nyquist.

    1.2 * (24 + 12 K) * (pad * box)^3 bytes + 100 MB: the arrays of RELION's own
    expectationSetupCheckMemory (ml_optimiser.cpp) plus a fifth; the peak RSS measured at boxes of
    96 to 192 pixels stays below it. Auto-refine always ends at Nyquist.
    """
    return (1.2 * (24 + 12 * classes) * (pad * box_px) ** 3 + _BASE_BYTES) / GIB


def count(value: object) -> int | None:
    """A whole number that is not negative, also as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, float):
        return int(value) if value >= 0 and value.is_integer() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    return None


def switch(value: object) -> bool:
    """A Scipion boolean: true, 1, "true", "1"."""
    if isinstance(value, str):
        return value.strip().lower() in ("true", "1")
    return bool(value)


def _ranks_and_threads(info: ClassInfo, params: Mapping[str, object]) -> tuple[int, int]:
    ranks = _between(count(params.get("numberOfMpi")), 1, _MAX_COUNT)
    threads = _between(count(params.get("numberOfThreads")), 1, _MAX_COUNT)
    per_item = _between(count(params.get("binThreads")), 1, _MAX_COUNT)
    if info.ranks_only:
        # THREADS with more than one rank: a program that takes ranks in place of threads.
        return max(2, ranks), 1
    if info.shape is Shape.SERIAL:
        return 1, 1
    if info.items:
        # One of Scipion's threads only hands out the items.
        return 1, min(_MAX_COUNT, max(1, threads - 1) * per_item)
    threads = per_item if "binThreads" in params else threads
    if info.shape is Shape.THREADS:
        return 1, threads
    return ranks if info.shape is Shape.MPI else max(3, ranks), threads


def _gpus(info: ClassInfo, params: Mapping[str, object]) -> int:
    required = info.gpu is GpuNeed.REQUIRED or info.resource_class is ResourceClass.GPU
    if info.gpu is GpuNeed.NONE and not required:
        return 0
    switches = [switch(params[name]) for name in _SWITCHES if name in params]
    listed = next((params[name] for name in _LISTS if params.get(name)), "")
    wanted = any(switches) if switches else bool(listed)
    if not required and not wanted:
        return 0
    found = _listed_gpus(str(listed))
    if found == {_VOID_GPU}:
        return 0
    return _between(len(found - {_VOID_GPU}), 1, _MAX_GPUS)


def _listed_gpus(text: str) -> set[int]:
    """The GPUs of "0 1", "1,5-8" or RELION's "0,1:2,3" (ranks apart by colons)."""
    found: set[int] = set()
    for part in re.split(r"[\s,:]+", text.strip()[:1000]):
        match = _RANGE.fullmatch(part)
        if match:
            first = int(match[1])
            last = min(int(match[2] or first), first + _MAX_GPUS)
            found.update(range(first, last + 1))
    return found


def _iterations(info: ClassInfo, params: Mapping[str, object]) -> int | None:
    if info.memory is MemoryModel.FLAT or info.shape is Shape.SPLIT_HALVES:
        return None
    if switch(params.get("useGradientAlg")) and info.memory is MemoryModel.REFINE_2D:
        return count(params.get("numberOfVDAMBatches"))
    return count(params.get("numberOfIterations", params.get("numberOfIter")))


def _box(params: Mapping[str, object]) -> int | None:
    """Box size that the step itself makes, as in extraction; in pixels."""
    rescaled = count(params.get("rescaledSize")) if switch(params.get("doRescale")) else None
    box = rescaled or count(params.get("boxSize"))
    return box if box and box <= _MAX_BOX_PX else None


def _sized(demand: Demand, info: ClassInfo, params: Mapping[str, object], box_px: int) -> Demand:
    classes = _between(count(params.get("numberOfClasses")), 1, 1000)
    image_bytes = 4.0 * box_px**2 * (demand.particles or 0)
    preread_gib = image_bytes / GIB if switch(params.get("allParticlesRam")) else 0.0
    scratch_gib = 1.1 * image_bytes / GIB if count(params.get("useScratch")) else 0.0
    if info.memory is MemoryModel.REFINE_2D:
        # 2D needs a few tens of MB; its references are K planes, padded twice, in double precision.
        planes_gib = 1.2 * 36 * classes * (2 * box_px) ** 2 / GIB
        worker_gib = planes_gib + _BASE_BYTES / GIB
        leader_gib = _BASE_BYTES / GIB
    else:
        unpadded = info.memory is MemoryModel.REFINE_3D_UNPADDED
        pad = 1 if unpadded or switch(params.get("skipPadding")) else 2
        worker_gib = worker_memory_gib(box_px=box_px, pad=pad, classes=classes)
        leader_gib = (3.2 * 8 * box_px**3 + _BASE_BYTES) / GIB
    return replace(
        demand,
        memory_gib=worker_gib + preread_gib,
        leader_memory_gib=leader_gib,
        scratch_gib=scratch_gib,
        vram_gib=_vram_gib(worker_gib) if demand.gpus else 0.0,
    )


def _vram_gib(worker_gib: float) -> float:
    """On the GPU RELION computes in single precision: half of the memory on the CPU.

    Box 360, six classes: 20.1 GiB by this, a peak of 21.5 GB (20.0 GiB) of 23 seen.
    """
    return worker_gib / 2


def _between(value: int | None, least: int, most: int) -> int:
    return least if value is None else min(max(value, least), most)
