"""A synthetic particle set made with RELION's own tools, small enough to classify in seconds."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

RELION = shutil.which("relion_refine")
MPIRUN = shutil.which("mpirun")
needs_relion = pytest.mark.skipif(RELION is None, reason="RELION is not installed")
needs_mpi = pytest.mark.skipif(
    shutil.which("relion_refine_mpi") is None or MPIRUN is None,
    reason="RELION for MPI is not installed",
)

VOLTAGE_KV = 300.0
CS_MM = 2.7
AMPLITUDE_CONTRAST = 0.1
LOBES = (((0, 0, -25), 48, 420), ((38, 14, 30), 30, 180), ((-30, -22, 34), 20, 90))
"""Centre and radius in Ångström, and number of atoms, of the three unequal lobes of the phantom."""

Volume = NDArray[np.float32]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLASS_2D = _words(
    "--ctf --tau2_fudge 2 --particle_diameter 190 --flatten_solvent --zero_mask --oversampling 1"
    " --psi_step 24 --offset_range 2 --offset_step 2 --norm --scale --random_seed 42 --pool 3"
)
CLASS_3D = _words(
    "--ref phantom_ref.mrc --ini_high 50 --ctf --ctf_corrected_ref --tau2_fudge 4"
    " --particle_diameter 190 --flatten_solvent --zero_mask --oversampling 0 --healpix_order 1"
    " --offset_range 2 --offset_step 2 --sym C1 --norm --scale --pad 1 --random_seed 42 --pool 3"
)
INITIAL_MODEL = _words(
    "--ctf --denovo_3dref --sgd --sgd_ini_iter 2 --sgd_inbetween_iter 2 --sgd_fin_iter 2"
    " --sgd_ini_resol 60 --sgd_fin_resol 50 --sgd_ini_subset 6 --sgd_fin_subset 8"
    " --sgd_write_iter 2 --K 1 --sym C1 --flatten_solvent --zero_mask --particle_diameter 190"
    " --oversampling 0 --healpix_order 0 --offset_range 0 --offset_step 1 --pad 1"
    " --random_seed 42 --pool 3"
)
AUTO_REFINE = _words(
    "--auto_refine --split_random_halves --ref phantom_ref.mrc --ini_high 50 --ctf"
    " --ctf_corrected_ref --particle_diameter 190 --flatten_solvent --zero_mask --oversampling 0"
    " --healpix_order 0 --auto_local_healpix_order 2 --offset_range 1 --offset_step 1 --sym C1"
    " --low_resol_join_halves 40 --norm --scale --pad 1 --random_seed 42 --pool 3"
)


@dataclass(frozen=True, slots=True)
class Particles:
    """What to make: `n` images of `box_px` pixels of `pixel_size_a` Ångström.

    `noise` is the white noise's standard deviation over that of the signal; low noise makes the
    posteriors sharp and RELION quick.
    """

    n: int = 160
    box_px: int = 32
    pixel_size_a: float = 7.0
    noise: float = 0.7
    seed: int = 1


def mpirun(ranks: int) -> list[str]:
    """The start of a command line for `ranks` ranks on this machine."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks)]


def make_project(folder: Path, particles: Particles | None = None) -> Path:
    """`folder` with particles.star, phantom.mrc, phantom_ref.mrc, mask.mrc and angles.star (truth).

    RELION's commands are to be run in it: the paths in its star files are relative to it.
    """
    made = particles or Particles()
    folder.mkdir(parents=True, exist_ok=True)
    _write_volumes(folder, made)
    _write_particles(folder, made)
    return folder


def run(folder: Path, *argv: str, timeout_s: float = 300) -> str:
    """What the command printed; an AssertionError with its end when it failed."""
    done = subprocess.run(
        argv, cwd=folder, text=True, capture_output=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def _write_volumes(folder: Path, made: Particles) -> None:
    _write_mrc(folder / "phantom.mrc", _phantom(made), made.pixel_size_a)
    pixel = str(made.pixel_size_a)
    for name, lowpass_a in (("phantom_ref.mrc", "40"), ("phantom_15a.mrc", "15")):
        run(
            folder,
            *("relion_image_handler", "--i", "phantom.mrc", "--o", name),
            *("--angpix", pixel, "--lowpass", lowpass_a),
        )
    threshold = 0.15 * float(mrcfile.read(folder / "phantom_15a.mrc").max())
    run(
        folder,
        *("relion_mask_create", "--i", "phantom_15a.mrc", "--o", "mask.mrc"),
        *("--ini_threshold", f"{threshold:.5f}", "--extend_inimask", "2"),
        *("--width_soft_edge", "4", "--angpix", pixel),
    )


def _write_particles(folder: Path, made: Particles) -> None:
    rng = np.random.default_rng(made.seed)
    rows = _true_rows(made, rng)
    _write_star(folder / "angles.star", made, rows, "dummy.mrcs")
    _write_star(folder / "angles_20.star", made, rows[:20], "dummy.mrcs")
    project = ("relion_project", "--i", "phantom.mrc", "--ctf", "--angpix", str(made.pixel_size_a))
    run(folder, *project, "--ang", "angles_20.star", "--o", "clean")
    noise = f"{made.noise * _signal(folder / 'clean.mrcs'):.6f}"
    add = ("--add_noise", "--white_noise", noise)
    run(folder, *project, "--ang", "angles.star", "--o", "raw", *add)
    run(
        folder,
        *("relion_preprocess", "--operate_on", "raw.mrcs", "--operate_out", "particles.mrcs"),
        *("--norm", "--bg_radius", str(int(made.box_px * 0.37))),
    )
    unknown = [{k: v for k, v in row.items() if k not in TRUTH} for row in rows]
    _write_star(folder / "particles.star", made, unknown, "particles.mrcs")


TRUTH = frozenset(
    {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
)


def _true_rows(made: Particles, rng: np.random.Generator) -> list[dict[str, float]]:
    micrographs = max(1, made.n // 50)
    defocus_a = rng.uniform(8000, 20000, micrographs)
    return [
        {
            "rlnAngleRot": rng.uniform(-180, 180),
            "rlnAngleTilt": float(np.degrees(np.arccos(rng.uniform(-1, 1)))),
            "rlnAnglePsi": rng.uniform(-180, 180),
            "rlnOriginXAngst": rng.normal(0, 6),
            "rlnOriginYAngst": rng.normal(0, 6),
            "rlnDefocusU": defocus_a[index % micrographs] + 200,
            "rlnDefocusV": defocus_a[index % micrographs] - 200,
            "rlnDefocusAngle": 45.0,
        }
        for index in range(made.n)
    ]


def _write_star(path: Path, made: Particles, rows: list[dict[str, float]], stack: str) -> None:
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "og1",
        "rlnVoltage": f"{VOLTAGE_KV}",
        "rlnSphericalAberration": f"{CS_MM}",
        "rlnAmplitudeContrast": f"{AMPLITUDE_CONTRAST}",
        "rlnImagePixelSize": f"{made.pixel_size_a}",
        "rlnImageSize": f"{made.box_px}",
        "rlnImageDimensionality": "2",
        "rlnMicrographOriginalPixelSize": f"{made.pixel_size_a}",
    }
    micrographs = max(1, made.n // 50)
    table = [
        {
            "rlnImageName": f"{index + 1:06d}@{stack}",
            "rlnMicrographName": f"mic_{index % micrographs + 1:03d}.mrc",
            **{name: f"{value:.6f}" for name, value in row.items()},
            "rlnOpticsGroup": "1",
        }
        for index, row in enumerate(rows)
    ]
    path.write_text(star_block("optics", [optics]) + star_block("particles", table))


def star_block(name: str, rows: list[dict[str, str]]) -> str:
    """One table as RELION writes it: it ends in a line of a single space."""
    labels = [f"_{label} #{number}" for number, label in enumerate(rows[0], start=1)]
    lines = [" ".join(row.values()) for row in rows]
    return "\n".join(["", f"data_{name}", "", "loop_", *labels, *lines, " ", ""])


def _signal(stack: Path) -> float:
    images = mrcfile.read(stack)
    quarter = images.shape[-1] // 4
    return float(images[:, quarter:-quarter, quarter:-quarter].std())


def _phantom(made: Particles) -> Volume:
    """Three unequal lobes of random-walk chains, made at twice the sampling and Fourier-cropped."""
    rng = np.random.default_rng(made.seed + 100)
    atoms = np.concatenate([_lobe(np.array(c, float), r, n, rng) for c, r, n in LOBES])
    atoms -= atoms.mean(axis=0)
    size = made.box_px * 2
    grid = np.zeros((size, size, size))
    voxels = np.round(atoms / (made.pixel_size_a / 2) + size // 2).astype(int)
    np.add.at(grid, (voxels[:, 2], voxels[:, 1], voxels[:, 0]), 1.0)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(grid)))
    frequency = np.fft.fftshift(np.fft.fftfreq(size, made.pixel_size_a / 2))
    square = sum(axis**2 for axis in np.meshgrid(frequency, frequency, frequency, indexing="ij"))
    spectrum *= np.exp(-2 * np.pi**2 * 3.0**2 * square)
    start, end = size // 2 - made.box_px // 2, size // 2 + made.box_px // 2
    crop = np.fft.ifftshift(spectrum[start:end, start:end, start:end])
    volume = np.real(np.fft.fftshift(np.fft.ifftn(crop)))
    scaled: Volume = (volume / volume.max()).astype(np.float32)
    return scaled


def _lobe(
    centre: NDArray[np.float64], radius_a: float, atoms: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    chain = [centre]
    while len(chain) < atoms:
        step = chain[-1] + rng.normal(0, 4.5, 3)
        chain.append(step if np.linalg.norm(step - centre) < radius_a else chain[-1])
    return np.array(chain)


def _write_mrc(path: Path, data: Volume, pixel_size_a: float) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(data))
        file.voxel_size = pixel_size_a
