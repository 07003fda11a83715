"""The synthetic data: the same every time, and of a kind that RELION can solve."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from scsched.scheduler import demo_data
from scsched.scheduler.demo_data import DemoDataError, MovieSet, ParticleSet
from scsched.steps import mrc, template
from tests.scheduler import scipion_site as site

SMALL = ParticleSet(particles=20, seed=3)


def rows(star: Path) -> list[list[str]]:
    """Rows of the particle table."""
    body = star.read_text().partition("data_particles")[2]
    return [line.split() for line in body.splitlines() if "@" in line]


def test_the_phantom_is_one_asymmetric_thing_in_the_middle() -> None:
    volume = demo_data.phantom(32, 7.0)
    assert volume.shape == (32, 32, 32)
    assert volume.max() == pytest.approx(1.0)
    grid = np.indices(volume.shape) - 16
    heavy = volume * (volume > 0.1)
    centre = [(axis * heavy).sum() / heavy.sum() for axis in grid]
    assert np.abs(centre).max() < 1.0
    radius_a = 7.0 * np.sqrt((grid**2).sum(axis=0))
    assert radius_a[volume > 0.1].max() < 110.0
    for axis in range(3):
        flipped = np.flip(volume, axis)
        assert np.corrcoef(volume.ravel(), flipped.ravel())[0, 1] < 0.9


def test_the_phantom_is_the_same_at_any_sampling() -> None:
    coarse, fine = demo_data.phantom(32, 7.0), demo_data.phantom(64, 3.5)
    binned = fine.reshape(32, 2, 32, 2, 32, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(coarse.ravel(), binned.ravel())[0, 1] > 0.9


@pytest.mark.relion
def test_particles_come_whole_and_without_their_answers(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    star = demo_data.make_particles(folder, SMALL, site.relion_bin())
    assert star == folder / "particles.star"
    assert len(rows(star)) == 20
    assert "rlnAngleRot" not in star.read_text()
    assert "rlnDefocusU" in star.read_text()
    header = mrc.require_whole(folder / "particles.mrcs")
    assert (header.columns, header.rows, header.sections) == (32, 32, 20)
    for name in ("phantom.mrc", "reference.mrc"):
        assert mrc.require_whole(folder / name).sections == 32


@pytest.mark.relion
def test_the_same_seed_gives_the_same_particles(tmp_path: Path) -> None:
    stacks = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        wanted = ParticleSet(particles=8, seed=seed)
        demo_data.make_particles(tmp_path / name, wanted, site.relion_bin())
        stacks.append(mrcfile.read(tmp_path / name / "particles.mrcs"))
    assert np.array_equal(stacks[0], stacks[1])
    assert not np.array_equal(stacks[0], stacks[2])


@pytest.mark.relion
def test_the_noise_is_as_asked(tmp_path: Path) -> None:
    demo_data.make_particles(tmp_path, ParticleSet(particles=50, noise=2.0), site.relion_bin())
    clean = mrcfile.read(tmp_path / "clean.mrcs").astype(float)
    raw = mrcfile.read(tmp_path / "raw.mrcs").astype(float)
    signal = clean[:, 8:24, 8:24].std()
    assert (raw - clean).std() / signal == pytest.approx(2.0, rel=0.05)


@pytest.mark.relion
def test_movies_hold_dark_drifting_particles(tmp_path: Path) -> None:
    wanted = MovieSet(movies=2, frames=3, size_px=256)
    each = demo_data.make_movies(tmp_path, wanted, site.relion_bin())
    assert each == 9
    movies = sorted((tmp_path / "movies").glob("*.mrcs"))
    assert len(movies) == 2
    frames = mrcfile.read(movies[0]).astype(float)
    assert frames.shape == (3, 256, 256)
    assert frames.mean() == pytest.approx(100.0, abs=20.0)


def test_a_missing_relion_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DemoDataError, match="relion_image_handler") as failed:
        demo_data.make_particles(tmp_path / "out", SMALL, tmp_path / "nowhere")
    assert failed.value.hint == "scsched doctor"


@pytest.mark.relion
def test_the_command_makes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.relion_bin()
    assert demo_data.main([str(tmp_path / "d"), "--particles", "5", "--movies", "1"]) == 0
    said = capsys.readouterr().out
    assert "5 particles" in said
    assert "1 movies, 64 particles each" in said
    assert demo_data.main([str(tmp_path / "e"), "--relion-bin", "/nowhere"]) == 1


def test_the_demo_workflow_is_complete_and_takes_its_data_from_one_folder() -> None:
    text, warned = template.fill(
        site.TEMPLATE.read_text(), template.Settings(params={"data": "/my data", "seed": "7"})
    )
    steps = json.loads(text)
    assert not warned
    assert [step["object.className"] for step in steps].count("ProtRelionRefine3D") == 1
    given = [str(step.get("starFile") or step.get("filesPath") or "") for step in steps]
    assert sorted(filter(None, given)) == [
        *("/my data/movies", "/my data/particles.star", "/my data/reference.mrc"),
    ]
    assert all(step.get("doGpu") in (None, False) for step in steps)
    refine = next(step for step in steps if step["object.className"] == "ProtRelionRefine3D")
    assert refine["extraParams"] == "--random_seed 7"
