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
    *, step: str = "20", parent: str = "1", label: str = "2D classes", iterations: int = 5
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


def micrographs(files: str, *, step: str = "40") -> Box:
    return {
        "object.className": "ProtImportMicrographs",
        "object.id": step,
        "object.label": "Micrographs",
        "importFrom": 0,
        "filesPath": files,
        "filesPattern": "*.mrc",
        "copyFiles": False,
        "voltage": 300.0,
        "sphericalAberration": 2.7,
        "amplitudeContrast": 0.1,
        "magnification": 50000,
        "samplingRateMode": 0,
        "samplingRate": 3.5,
        "dataStreaming": False,
    }


def picking(*, step: str = "41", parent: str = "40", threshold: float = 0.0) -> Box:
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
        "threshold": threshold,
        "threshold2": 999.0,
        "numberOfMpi": 1,
    }
