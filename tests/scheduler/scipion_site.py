"""Where the real Scipion and RELION of this machine are, and small inputs for them."""

import json
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
RELION_BIN = Path("/usr/bin")
TEMPLATE = REPO / "examples" / "demo.json.template"


def scipion_python() -> Path:
    """Scipion's Python, or skip the test."""
    given = os.environ.get("SCSCHED_SCIPION_PYTHON")
    found = Path(given) if given else REPO / ".scipion" / "venv" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"no Scipion at {found}: scsched setup scipion")
    return found


def relion_bin() -> Path:
    """RELION's folder, or skip the test."""
    if not (RELION_BIN / "relion_refine").exists():
        pytest.skip(f"no RELION in {RELION_BIN}: apt-get install relion")
    return RELION_BIN


def write_particles(folder: Path, count: int = 12) -> Path:
    """A star file and its stack of noise: enough for an import."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    with mrcfile.new(folder / "particles.mrcs", overwrite=True) as file:
        file.set_data(random.normal(size=(count, 16, 16)).astype(np.float32))
        file.voxel_size = 7.0
    optics = {
        "rlnOpticsGroup": 1,
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.1,
        "rlnImagePixelSize": 7.0,
        "rlnImageSize": 16,
        "rlnImageDimensionality": 2,
    }
    particles = [
        {
            "rlnImageName": f"{i + 1:06d}@particles.mrcs",
            "rlnMicrographName": "mic.mrc",
            "rlnDefocusU": 10000.0,
            "rlnDefocusV": 9900.0,
            "rlnDefocusAngle": 0.0,
            "rlnOpticsGroup": 1,
        }
        for i in range(count)
    ]
    star = folder / "particles.star"
    star.write_text(_table("optics", [optics]) + _table("particles", particles))
    return star


def write_volume(path: Path) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((16, 16, 16), np.float32))
        file.voxel_size = 7.0
    return path


def _table(name: str, rows: list[dict[str, object]]) -> str:
    heads = "".join(f"_{label} #{i}\n" for i, label in enumerate(rows[0], start=1))
    body = "".join(" ".join(str(value) for value in row.values()) + "\n" for row in rows)
    return f"\ndata_{name}\n\nloop_\n{heads}{body} \n"


def import_step(star: Path, *, step: str = "7", label: str = "Particles") -> dict[str, object]:
    return {
        "object.className": "ProtImportParticles",
        "object.id": step,
        "object.label": label,
        "object.comment": "",
        "_useQueue": False,
        "_prerequisites": "",
        "_queueParams": None,
        "runMode": 0,
        "importFrom": 3,
        "starFile": str(star),
        "voltage": 300.0,
        "sphericalAberration": 2.7,
        "amplitudeContrast": 0.1,
        "magnification": 50000,
        "samplingRate": 7.0,
    }


def volume_step(volume: Path, *, step: str = "3") -> dict[str, object]:
    return {
        "object.className": "ProtImportVolumes",
        "object.id": step,
        "object.label": "Map",
        "importFrom": 0,
        "filesPath": str(volume),
        "samplingRate": 7.0,
    }


def classify_step(parent: str, *, step: str = "20", iterations: int = 2) -> dict[str, object]:
    return {
        "object.className": "ProtRelionClassify2D",
        "object.id": step,
        "object.label": "2D classes",
        "object.comment": "",
        "_useQueue": True,
        "_prerequisites": "",
        "_queueParams": None,
        "runMode": 0,
        "inputParticles": f"{parent}.outputParticles",
        "maskDiameterA": 80,
        "numberOfClasses": 2,
        "useGradientAlg": False,
        "numberOfIterations": iterations,
        "inplaneAngularSamplingDeg": 30.0,
        "offsetSearchRangePix": 1.0,
        "offsetSearchStepPix": 1.0,
        "doGpu": True,
        "extraParams": "--random_seed 42",
        "numberOfThreads": 1,
        "numberOfMpi": 3,
    }


def document(*steps: dict[str, object]) -> str:
    return json.dumps(list(steps))
