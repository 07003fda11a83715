"""A synthetic data set, made with RELION's own tools from a phantom: real files, invented molecule.

    python -m scsched.scheduler.demo_data OUT [--particles 400] [--movies 2]

writes into OUT

    phantom.mrc       what the molecule truly looks like
    reference.mrc     the same at 40 A: where a 3D refinement may start
    particles.star    noisy projections with a contrast transfer function each, and their stack
    movies/*.mrcs     drifting frames full of such particles

Needs numpy and mrcfile, which scsched itself does not depend on.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from scsched.steps.errors import ScschedError

Array = NDArray[np.float64]

VOLTAGE_KV = 300.0
CS_MM = 2.7
AMPLITUDE_CONTRAST = 0.1
REFERENCE_A = 40.0
RELION_TIMEOUT_S = 300.0

# Centre, radius and number of points of each lobe, in Angstrom: asymmetric, 150 A across.
LOBES = (((0, 0, -25), 48, 420), ((38, 14, 30), 30, 180), ((-30, -22, 34), 20, 90))


class DemoDataError(ScschedError):
    """A RELION tool failed; the message has its last lines."""

    code = "demo_data"


@dataclass(frozen=True, slots=True)
class ParticleSet:
    """`noise` is the standard deviation of white noise over that of the signal in the centre."""

    particles: int = 400
    box_px: int = 32
    pixel_a: float = 7.0
    noise: float = 1.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class MovieSet:
    """Movies of twice the particle set's sampling, so that extraction may bin by two."""

    movies: int = 2
    frames: int = 8
    size_px: int = 512
    box_px: int = 64
    pixel_a: float = 3.5
    noise: float = 0.7
    seed: int = 1


def make_particles(out: Path, wanted: ParticleSet, relion_bin: Path | None = None) -> Path:
    """The path of `particles.star`, with `phantom.mrc` and `reference.mrc` beside it.

    :raises DemoDataError: a RELION tool failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    tools = _Tools(out, relion_bin)
    pixel = f"{wanted.pixel_a}"
    _write_mrc(out / "phantom.mrc", phantom(wanted.box_px, wanted.pixel_a), wanted.pixel_a)
    tools.run(
        *("relion_image_handler", "--i", "phantom.mrc", "--o", "reference.mrc"),
        *("--angpix", pixel, "--lowpass", f"{REFERENCE_A}"),
    )
    rows = _particle_rows(wanted)
    optics = _optics(wanted.box_px, wanted.pixel_a)
    _write_star(out / "angles.star", optics=optics, particles=rows)
    tools.project("angles.star", "clean", "phantom.mrc", pixel)
    clean = _read_mrc(out / "clean.mrcs")
    # relion_project can add noise too, but takes no seed for it.
    random = np.random.default_rng([wanted.seed, 2])
    noise = random.normal(0, wanted.noise * _central_sd(clean), clean.shape)
    _write_mrc(out / "raw.mrcs", clean + noise, wanted.pixel_a)
    radius = str(int(wanted.box_px * 0.37))
    tools.run(
        *("relion_preprocess", "--operate_on", "raw.mrcs", "--operate_out", "particles.mrcs"),
        *("--norm", "--bg_radius", radius),
    )
    _write_star(out / "particles.star", optics=optics, particles=_as_extracted(rows))
    return out / "particles.star"


def make_movies(out: Path, wanted: MovieSet, relion_bin: Path | None = None) -> int:
    """The number of particles in each movie of `out/movies`.

    :raises DemoDataError: a RELION tool failed.
    """
    (out / "movies").mkdir(parents=True, exist_ok=True)
    tools = _Tools(out, relion_bin)
    random = np.random.default_rng(wanted.seed)
    _write_mrc(out / "phantom_big.mrc", phantom(wanted.box_px, wanted.pixel_a), wanted.pixel_a)
    places = _grid(wanted)
    optics = _optics(wanted.box_px, wanted.pixel_a)
    for number in range(1, wanted.movies + 1):
        rows = _projections(random, len(places), f"movie_{number:03d}", [random.uniform(8e3, 2e4)])
        _write_star(out / "angles_movie.star", optics=optics, particles=rows)
        tools.project("angles_movie.star", "movie", "phantom_big.mrc", f"{wanted.pixel_a}")
        image = _micrograph(_read_mrc(out / "movie.mrcs"), places, wanted, random)
        frames = _frames(image, wanted, random)
        _write_mrc(out / "movies" / f"movie_{number:03d}.mrcs", frames, wanted.pixel_a)
    return len(places)


def phantom(box_px: int, pixel_a: float) -> Array:
    """Three unequal lobes of Gaussian blobs (sigma 3 A) along random walks; the same every time."""
    random = np.random.default_rng(101)
    points = np.concatenate([_walk(random, *lobe) for lobe in LOBES])
    points -= points.mean(axis=0)
    side = box_px * 2
    index = np.round(points / (pixel_a / 2) + side // 2).astype(int)
    grid = np.zeros((side, side, side))
    np.add.at(grid, (index[:, 2], index[:, 1], index[:, 0]), 1.0)
    waves = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(grid)))
    per_a = np.fft.fftshift(np.fft.fftfreq(side, d=pixel_a / 2))
    squared = per_a[:, None, None] ** 2 + per_a[None, :, None] ** 2 + per_a[None, None, :] ** 2
    waves *= np.exp(-2 * np.pi**2 * 3.0**2 * squared)
    low = slice(side // 2 - box_px // 2, side // 2 + box_px // 2)
    volume = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(waves[low, low, low]))).real
    return np.asarray(volume / volume.max(), dtype=np.float64)


def _walk(random: np.random.Generator, centre: Sequence[float], radius: float, steps: int) -> Array:
    middle = np.array(centre, dtype=float)
    here = middle.copy()
    points = []
    for _ in range(steps):
        step = next(
            (q for q in here + random.normal(0, 4.5, (50, 3)) if _near(q, middle, radius)), here
        )
        here = step
        points.append(here.copy())
    return np.array(points)


def _near(point: Array, centre: Array, radius: float) -> bool:
    return float(np.linalg.norm(point - centre)) < radius


# ---- particles --------------------------------------------------------------------------------

Row = Mapping[str, float | int | str]


def _particle_rows(wanted: ParticleSet) -> list[Row]:
    random = np.random.default_rng(wanted.seed)
    micrographs = max(1, wanted.particles // 50)
    defoci = list(random.uniform(8e3, 2e4, micrographs))
    return _projections(random, wanted.particles, "mic", defoci, shift_a=6.0)


def _projections(
    random: np.random.Generator, count: int, name: str, defoci: list[float], shift_a: float = 0.0
) -> list[Row]:
    """Views spread evenly over the sphere."""
    rot, psi = random.uniform(-180, 180, count), random.uniform(-180, 180, count)
    tilt = np.degrees(np.arccos(random.uniform(-1, 1, count)))
    shift = random.normal(0, 1, (count, 2)) * shift_a
    return [
        {
            "rlnImageName": f"{i + 1:06d}@none.mrcs",
            "rlnMicrographName": f"{name}_{i % len(defoci) + 1:03d}.mrc",
            "rlnAngleRot": rot[i],
            "rlnAngleTilt": tilt[i],
            "rlnAnglePsi": psi[i],
            "rlnOriginXAngst": shift[i, 0],
            "rlnOriginYAngst": shift[i, 1],
            "rlnDefocusU": defoci[i % len(defoci)] + 200,
            "rlnDefocusV": defoci[i % len(defoci)] - 200,
            "rlnDefocusAngle": 45.0,
            "rlnOpticsGroup": 1,
        }
        for i in range(count)
    ]


def _as_extracted(rows: Sequence[Row]) -> list[Row]:
    """The same particles without the truth about their orientation."""
    hidden = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    return [
        {key: value for key, value in row.items() if key not in hidden}
        | {"rlnImageName": f"{i + 1:06d}@particles.mrcs"}
        for i, row in enumerate(rows)
    ]


def _optics(box_px: int, pixel_a: float) -> list[Row]:
    return [
        {
            "rlnOpticsGroup": 1,
            "rlnOpticsGroupName": "opticsGroup1",
            "rlnVoltage": VOLTAGE_KV,
            "rlnSphericalAberration": CS_MM,
            "rlnAmplitudeContrast": AMPLITUDE_CONTRAST,
            "rlnImagePixelSize": pixel_a,
            "rlnImageSize": box_px,
            "rlnImageDimensionality": 2,
            "rlnMicrographOriginalPixelSize": pixel_a,
        }
    ]


# ---- movies -----------------------------------------------------------------------------------


def _grid(wanted: MovieSet) -> list[tuple[int, int]]:
    margin, step = wanted.box_px // 2 + 20, int(wanted.box_px * 0.8)
    line = range(margin, wanted.size_px - margin, step)
    return [(y, x) for y in line for x in line]


def _micrograph(
    images: Array, places: Sequence[tuple[int, int]], wanted: MovieSet, random: np.random.Generator
) -> Array:
    """The particles at their places, signal of standard deviation 1."""
    half = wanted.box_px // 2
    sheet = np.zeros((wanted.size_px, wanted.size_px))
    for image, (y, x) in zip(images, places, strict=True):
        row, column = y + random.integers(-8, 9), x + random.integers(-8, 9)
        sheet[row - half : row + half, column - half : column + half] += image
    return sheet / _central_sd(images)


def _frames(sheet: Array, wanted: MovieSet, random: np.random.Generator) -> NDArray[np.int16]:
    """Dark particles on a bright ground, drifting by 4 and -2.5 px in all, with noise."""
    waves = np.fft.rfft2(sheet)
    fy = np.fft.fftfreq(wanted.size_px)[:, None]
    fx = np.fft.rfftfreq(wanted.size_px)[None]
    noise = 10.0 * wanted.noise * np.sqrt(wanted.frames)
    frames = np.empty((wanted.frames, wanted.size_px, wanted.size_px), np.int16)
    for t in range(wanted.frames):
        dx, dy = 4.0 * (1 - np.exp(-t / 3)), -2.5 * (1 - np.exp(-t / 4))
        moved = np.fft.irfft2(waves * np.exp(-2j * np.pi * (fx * dx + fy * dy)), s=sheet.shape)
        frames[t] = np.round(100.0 - 10.0 * moved + random.normal(0, noise, sheet.shape))
    return frames


# ---- files and tools --------------------------------------------------------------------------


class _Tools:
    """RELION programs, run in the data set's own folder."""

    def __init__(self, cwd: Path, relion_bin: Path | None) -> None:
        self._cwd = cwd
        self._bin = relion_bin

    def project(self, angles: str, out: str, volume: str, pixel: str) -> None:
        self.run(
            *("relion_project", "--i", volume, "--ang", angles, "--ctf", "--o", out),
            *("--angpix", pixel),
        )

    def run(self, program: str, *arguments: str) -> None:
        path = str(self._bin / program) if self._bin else program
        try:
            done = subprocess.run(
                [path, *arguments],
                cwd=self._cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=RELION_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise DemoDataError(f"{program}: {exc}", hint="scsched doctor") from exc
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-5:])
            raise DemoDataError(f"{program} ended with {done.returncode}:\n{last}")


def _central_sd(images: Array) -> float:
    quarter = images.shape[-1] // 4
    middle = slice(quarter, images.shape[-1] - quarter)
    return float(images[:, middle, middle].std())


def _read_mrc(path: Path) -> Array:
    return np.asarray(mrcfile.read(path), dtype=np.float64)


def _write_mrc(path: Path, data: NDArray[Any], pixel_a: float) -> None:
    kept = data if data.dtype == np.int16 else data.astype(np.float32)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(kept))
        file.voxel_size = pixel_a


def _write_star(path: Path, **tables: Sequence[Row]) -> None:
    lines = []
    for name, rows in tables.items():
        lines += ["", f"data_{name}", "", "loop_"]
        lines += [f"_{label} #{i}" for i, label in enumerate(rows[0], start=1)]
        lines += [" ".join(_cell(value) for value in row.values()) for row in rows]
        lines.append(" ")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _cell(value: float | int | str) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    usual = ParticleSet()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--particles", type=int, default=usual.particles)
    parser.add_argument("--noise", type=float, default=usual.noise)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--movies", type=int, default=MovieSet().movies)
    parser.add_argument("--relion-bin", type=Path)
    given = parser.parse_args(arguments)
    wanted = ParticleSet(particles=given.particles, noise=given.noise, seed=given.seed)
    try:
        if given.particles:
            star = make_particles(given.out, wanted, given.relion_bin)
            print(f"{star}: {given.particles} particles")
        if given.movies:
            each = make_movies(given.out, MovieSet(movies=given.movies), given.relion_bin)
            print(f"{given.out / 'movies'}: {given.movies} movies, {each} particles each")
    except DemoDataError as exc:
        print(f"scsched: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
