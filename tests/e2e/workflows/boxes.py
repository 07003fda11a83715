"""The boxes of small workflows on synthetic particles, as Scipion exports them."""

import json
from pathlib import Path

from tests.scheduler.scipion_site import import_step, volume_step

Box = dict[str, object]

_RELION: Box = {
    "object.comment": "",
    "_useQueue": False,
    "_prerequisites": "",
    "_queueParams": None,
    "runMode": 0,
    "doGpu": False,
    "pooledParticles": 3,
    "numberOfThreads": 1,
    "numberOfMpi": 3,
}
_REFINE: Box = {
    **_RELION,
    "maskDiameterA": 190,
    "maskZero": 0,
    "isMapAbsoluteGreyScale": True,
    "symmetryGroup": "c1",
    "initialLowPassFilterA": 50.0,
    "doCTF": True,
    "skipPadding": True,
}


def document(*boxes: Box) -> str:
    return json.dumps(list(boxes))


def particles(data: Path, *, step: str = "1", label: str = "Particles") -> Box:
    return import_step(data / "particles.star", step=step, label=label)


def reference(data: Path, *, step: str = "2") -> Box:
    return volume_step(data / "phantom_ref.mrc", step=step) | {"object.label": "Reference"}


def refinement(
    *, step: str = "3", label: str = "Refinement", seed: int = 42, extra: str = "", **more: object
) -> Box:
    """Auto-refine with three ranks: seconds for an iteration, about twelve iterations."""
    return {
        **_REFINE,
        "object.className": "ProtRelionRefine3D",
        "object.id": step,
        "object.label": label,
        "inputParticles": "1.outputParticles",
        "referenceVolume": "2.outputVolume",
        "angularSamplingDeg": 1,
        "offsetSearchRangePix": 3.0,
        "offsetSearchStepPix": 1.0,
        "localSearchAutoSamplingDeg": 2,
        "oversampling": 1,
        "extraParams": f"--random_seed {seed} {extra}".strip(),
        **more,
    }


def classes_2d(
    *,
    step: str = "20",
    parent: str = "1",
    label: str = "2D classes",
    iterations: int = 5,
    **more: object,
) -> Box:
    return {
        **_RELION,
        "object.className": "ProtRelionClassify2D",
        "object.id": step,
        "object.label": label,
        "inputParticles": f"{parent}.outputParticles",
        "maskDiameterA": 190,
        "doCTF": True,
        "numberOfClasses": 3,
        "useGradientAlg": False,
        "numberOfIterations": iterations,
        "inplaneAngularSamplingDeg": 12.0,
        "offsetSearchRangePix": 3.0,
        "offsetSearchStepPix": 1.0,
        "extraParams": "--random_seed 42",
        **more,
    }


def classes_3d(*, step: str = "30", label: str = "3D classes", iterations: int = 3) -> Box:
    return {
        **_REFINE,
        "object.className": "ProtRelionClassify3D",
        "object.id": step,
        "object.label": label,
        "inputParticles": "1.outputParticles",
        "referenceVolume": "2.outputVolume",
        "numberOfClasses": 2,
        "numberOfIterations": iterations,
        "angularSamplingDeg": 1,
        "offsetSearchRangePix": 2.0,
        "offsetSearchStepPix": 1.0,
        "oversampling": 0,
        "extraParams": "--random_seed 42",
    }


def mask(*, step: str = "4", parent: str = "3") -> Box:
    return {
        "object.className": "ProtRelionCreateMask3D",
        "object.id": step,
        "object.label": "Mask",
        "inputVolume": f"{parent}.outputVolume",
        "initialLowPassFilterA": 15.0,
        "threshold": 0.15,
        "extend": 2,
        "edge": 4,
        "numberOfThreads": 1,
    }


def post_processing(*, step: str = "5", refined: str = "3", masked: str = "4") -> Box:
    return {
        "object.className": "ProtRelionPostprocess",
        "object.id": step,
        "object.label": "Post-processing",
        "relionInput": True,
        "inputType": 0,
        "protRefine": f"{refined}.",
        "solventMask": f"{masked}.outputMask",
        "calibratedPixelSize": 0.0,
        "doAutoBfactor": True,
        "bfactorLowRes": 30.0,
        "skipFscWeighting": False,
        "randomizeAtFsc": 0.8,
    }


def subset(*, step: str = "6", parent: str = "1") -> Box:
    """A person makes it in Scipion's viewer."""
    return {
        "object.className": "ProtUserSubSet",
        "object.id": step,
        "object.label": "Good particles",
        "inputObject": f"{parent}.outputParticles",
        "outputClassName": "SetOfParticles",
    }


def half_maps(folder: Path, *, step: str = "50") -> Box:
    """Imports map.mrc with half1.mrc and half2.mrc."""
    return volume_step(folder / "map.mrc", step=step) | {
        "object.label": "Halves",
        "setHalfMaps": True,
        "half1map": str(folder / "half1.mrc"),
        "half2map": str(folder / "half2.mrc"),
    }


def imported_mask(folder: Path, *, step: str = "51") -> Box:
    return {
        "object.className": "ProtImportMask",
        "object.id": step,
        "object.label": "Imported mask",
        "maskPath": str(folder / "mask.mrc"),
        "samplingRate": 7.0,
    }


def movies(folder: Path, *, step: str = "9") -> Box:
    return {
        "object.className": "ProtImportMovies",
        "object.id": step,
        "object.label": "Movies",
        "importFrom": 0,
        "filesPath": str(folder),
        "filesPattern": "*.mrcs",
        "copyFiles": False,
        "voltage": 300.0,
        "sphericalAberration": 2.7,
        "amplitudeContrast": 0.1,
        "magnification": 50000,
        "samplingRateMode": 0,
        "samplingRate": 3.5,
        "doseInitial": 0.0,
        "dosePerFrame": 1.0,
        "dataStreaming": False,
    }


def aligned(*, step: str = "10", parent: str = "9") -> Box:
    return {
        "object.className": "ProtRelionMotioncor",
        "object.id": step,
        "object.label": "Aligned",
        "inputMovies": f"{parent}.outputMovies",
        "doDW": False,
        "saveNonDW": False,
        "doComputePSD": False,
        "doComputeMicThumbnail": False,
        "patchX": 1,
        "patchY": 1,
        "groupFrames": 1,
        "binFactor": 1.0,
        "numberOfThreads": 2,
    }


def picked(*, step: str = "11", parent: str = "10") -> Box:
    return {
        "object.className": "ProtRelionAutopickLoG",
        "object.id": step,
        "object.label": "Picked",
        "inputMicrographs": f"{parent}.outputMicrographs",
        "boxSize": 64,
        "minDiameter": 150,
        "maxDiameter": 220,
        "areParticlesWhite": False,
        "maxResolution": 20.0,
        "threshold": 0.0,
        "threshold2": 999.0,
        "numberOfMpi": 1,
    }


def extracted(*, step: str = "12", parent: str = "11") -> Box:
    return {
        "object.className": "ProtRelionExtractParticles",
        "object.id": step,
        "object.label": "Extracted",
        "inputCoordinates": f"{parent}.outputCoordinates",
        "downsampleType": 0,
        "boxSize": 64,
        "doRescale": True,
        "rescaledSize": 32,
        "doInvert": True,
        "doNormalize": True,
        "numberOfMpi": 1,
    }
