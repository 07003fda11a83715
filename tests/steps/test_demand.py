"""What a step needs follows from its class and its own switches, not from Scipion's counts."""

import pytest

from scsched.steps import demand
from scsched.steps.classes import ClassInfo, GpuNeed, table
from scsched.steps.demand import Inputs
from scsched.steps.spec import Demand, ResourceClass, Shape


def derive(protocol: str, inputs: Inputs | None = None, /, **params: object) -> Demand:
    return demand.derive(table()[protocol], params, inputs)


@pytest.mark.parametrize(
    ("protocol", "params", "gpus"),
    [
        ("ProtRelionClassify2D", {"doGpu": True, "gpusToUse": ""}, 1),
        ("ProtRelionClassify2D", {"doGpu": True, "gpusToUse": "0,1:2,3"}, 4),
        ("ProtRelionClassify2D", {"doGpu": True, "gpusToUse": "0:1"}, 2),
        ("ProtRelionClassify2D", {"doGpu": False, "gpusToUse": "0,1"}, 0),
        ("ProtRelionClassify2D", {"doGpu": "False"}, 0),
        ("EmanProtAutopick", {"useGpu": False, "gpuList": "0"}, 0),
        ("ProtImodCtfCorrection", {"useGpu": True, "gpuList": "0 1"}, 2),
        ("ProtMotionCorr", {"gpuList": "1,5-8"}, 5),
        ("ProtMotionCorr", {"gpuMsg": "True", "GPUIDs": "0"}, 1),
        ("ProtMotionCorr", {}, 1),
        ("ProtMotionCorr", {"gpuList": "99"}, 0),
        ("ProtMotionCorr", {"gpuList": "0-4000000000"}, 1),
        ("ProtMotionCorr", {"gpuList": "0-9999"}, 64),
        ("ProtMovieAlignment", {"doGPU": False, "GPUCore": 1}, 0),
        ("ProtMovieAlignment", {"doGPU": True, "GPUCore": 1}, 1),
        ("ProtMonitorSummary", {"doGpu": True, "gpusToUse": "0"}, 0),
        ("ProtRelionPostprocess", {"gpuList": "0"}, 0),
        ("CryoassessProt2D", {"gpuList": "0"}, 1),
        ("CryoassessProt2D", {}, 0),
    ],
)
def test_gpus(protocol: str, params: dict[str, object], gpus: int) -> None:
    assert derive(protocol, **params).gpus == gpus


@pytest.mark.parametrize(
    ("protocol", "params", "ranks", "threads"),
    [
        ("ProtImportParticles", {"numberOfMpi": 8, "numberOfThreads": 8}, 1, 1),
        ("CistemProtCTFFind", {"numberOfMpi": 8, "numberOfThreads": 3}, 1, 2),
        ("CistemProtCTFFind", {"numberOfThreads": 3, "binThreads": 4}, 1, 8),
        ("CistemProtCTFFind", {}, 1, 1),
        ("ProtRelionMotioncor", {"numberOfThreads": 4}, 1, 4),
        ("ProtRelionClassify2D", {"numberOfMpi": 3, "numberOfThreads": 2}, 3, 2),
        ("ProtRelionClassify2D", {"numberOfMpi": "5"}, 5, 1),
        ("ProtRelionClassify2D", {"numberOfMpi": True}, 1, 1),
        ("ProtRelionRefine3D", {"numberOfMpi": 1}, 3, 1),
        ("ProtRelionRefine3D", {"numberOfMpi": 10**12}, 4096, 1),
        ("ProtRelionInitialModel", {"numberOfThreads": 12}, 1, 12),
        ("ProtRelionExtractParticles", {"numberOfMpi": 4}, 4, 1),
        ("ProtRelion3DClassifySubtomograms", {"numberOfMpi": 3, "binThreads": 8}, 3, 8),
    ],
)
def test_ranks_and_threads(
    protocol: str, params: dict[str, object], ranks: int, threads: int
) -> None:
    found = derive(protocol, **params)
    assert (found.ranks, found.threads) == (ranks, threads)


@pytest.mark.parametrize(
    ("protocol", "params", "iterations"),
    [
        ("ProtRelionClassify2D", {"numberOfIterations": 25, "useGradientAlg": False}, 25),
        ("ProtRelionClassify2D", {"useGradientAlg": True, "numberOfVDAMBatches": 200}, 200),
        ("ProtRelionInitialModel", {"numberOfIter": 12}, 12),
        ("ProtRelionRefine3D", {"numberOfIterations": 25}, None),
        ("XmippProtCL2D", {"numberOfIterations": 10}, None),
    ],
)
def test_iterations(protocol: str, params: dict[str, object], iterations: int | None) -> None:
    assert derive(protocol, **params).iterations == iterations


def test_the_box_of_an_extraction_is_the_one_it_writes() -> None:
    params: dict[str, object] = {"boxSize": 256, "doRescale": True, "rescaledSize": 64}
    assert derive("ProtRelionExtractParticles", **params).box_px == 64
    assert derive("ProtRelionExtractParticles", boxSize="1548.boxSize").box_px is None


@pytest.mark.parametrize(
    ("box_px", "pad", "classes", "measured_mib"),
    [(96, 2, 1, 276), (128, 1, 1, 104), (128, 2, 1, 619), (192, 2, 1, 2018), (128, 2, 3, 1160)],
)
def test_a_worker_asks_for_more_than_was_measured_but_not_twice(
    box_px: int, pad: int, classes: int, measured_mib: float
) -> None:
    asked_mib = 1024 * demand.worker_memory_gib(box_px=box_px, pad=pad, classes=classes)
    assert measured_mib < asked_mib < 2 * measured_mib


def test_inputs_size_a_refinement() -> None:
    inputs = Inputs(box_px=400, particles=100_000)
    plain = derive("ProtRelionRefine3D", inputs)
    assert plain.memory_gib == pytest.approx(20.7, abs=0.1)
    assert plain.leader_memory_gib == pytest.approx(1.6, abs=0.1)
    assert plain.particles == 100_000
    assert derive("ProtRelionRefine3D", inputs, skipPadding=True).memory_gib < 3
    preread = derive("ProtRelionRefine3D", inputs, allParticlesRam=True)
    assert preread.memory_gib - plain.memory_gib == pytest.approx(59.6, abs=0.1)
    assert derive("ProtRelionRefine3D", inputs, useScratch=1).scratch_gib > 59.6


def test_gpu_memory_matches_the_run_that_nearly_filled_23_gb() -> None:
    inputs = Inputs(box_px=360)
    found = derive("ProtRelionClassify3D", inputs, doGpu=True, numberOfClasses=6)
    assert found.vram_gib == pytest.approx(21.5e9 / 2**30, rel=0.05)
    assert derive("ProtRelionClassify3D", inputs, numberOfClasses=6).vram_gib == 0


def test_two_dimensions_need_little() -> None:
    found = derive("ProtRelionClassify2D", Inputs(box_px=200), numberOfClasses=100)
    assert found.memory_gib < 1.0


def test_a_class_mapped_to_gpu_gets_one() -> None:
    info = ClassInfo(protocol="Mine", resource_class=ResourceClass.GPU, shape=Shape.THREADS)
    assert demand.derive(info, {}).gpus == 1
    assert info.gpu is GpuNeed.OPTIONAL
