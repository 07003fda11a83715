"""RELION programs that go item by item: what a later attempt removes, keeps and skips."""

import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from scsched.steps import command as commands
from scsched.steps import items
from tests.relion_data import needs_relion

ITEMS = ("mic_000001", "mic_000002")
MICROGRAPHS = "micrographs.star"
EXTRACT = (
    *("relion_preprocess", "--i", MICROGRAPHS, "--part_star", "particles.star"),
    *("--coord_dir", ".", "--coord_suffix", ".coords.star", "--part_dir", "."),
    *("--extract", "--extract_size", "32", "--bg_radius", "12", "--norm"),
)
PICK = ("relion_autopick", "--i", MICROGRAPHS, "--odir", "./", "--LoG")
OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n"
    "_rlnMicrographPixelSize #3\n_rlnVoltage #4\n_rlnSphericalAberration #5\n"
    "_rlnAmplitudeContrast #6\n1 opticsGroup1 7.0 300.0 2.7 0.1\n \n"
)


@pytest.fixture
def scipion(tmp_path: Path) -> Path:
    """The folder of a protocol, with all that Scipion's plugin puts there for `relion_preprocess`:
    its own coordinate files, which lack the end of RELION's, and links to the micrographs."""
    (tmp_path / "tmp").mkdir()
    rng = np.random.default_rng(1)
    for item in ITEMS:
        with mrcfile.new(tmp_path / f"real_{item}.mrc") as micrograph:
            micrograph.set_data(rng.normal(size=(256, 256)).astype(np.float32))
        (tmp_path / "tmp" / f"{item}.mrc").symlink_to(tmp_path / f"real_{item}.mrc")
        (tmp_path / "tmp" / f"{item}.coords.star").write_text(
            "\ndata_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n100 120 \n150 60 \n"
        )
    rows = "".join(f"tmp/{item}.mrc 1\n" for item in ITEMS)
    labels = "_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    text = f"\n{OPTICS}\ndata_micrographs\n\nloop_\n{labels}{rows} \n"
    (tmp_path / MICROGRAPHS).write_text(text)
    return tmp_path


def attempt(argv: tuple[str, ...], project: Path) -> list[str]:
    """The command as it is to run."""
    command = commands.parse(list(argv))
    assert command is not None
    return list(items.prepared(command, project=project, say=lambda _: None).argv)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_what_scipion_has_put_there_for_relion_to_read_is_never_removed(scipion: Path) -> None:
    there = files(scipion / "tmp")
    assert attempt(EXTRACT, scipion) == list(EXTRACT)
    (scipion / "tmp" / "mic_000001_extract.star").write_text("data_\n\n_rlnX 1\n")
    assert attempt(EXTRACT, scipion) == [*EXTRACT, "--only_do_unfinished"]
    assert files(scipion / "tmp") == there


def test_a_micrograph_that_is_no_link_stays_too(scipion: Path) -> None:
    """Scipion converts those that RELION cannot read; one may be torn without being ours."""
    attempt(PICK, scipion)
    link = scipion / "tmp" / "mic_000001.mrc"
    link.unlink()
    link.write_bytes(b"cut")
    (scipion / "tmp" / "mic_000001_autopick.star").write_text("data_\n\n_rlnX 1\n")
    attempt(PICK, scipion)
    assert link.read_bytes() == b"cut"
    assert not (scipion / "tmp" / "mic_000001_autopick.star").exists()


@pytest.mark.relion
@needs_relion
def test_an_interrupted_extraction_keeps_whole_micrographs(scipion: Path) -> None:
    def run() -> None:
        launcher = [sys.executable, "-I", "-m", "scsched.cluster.launcher"]
        subprocess.run(
            [*launcher, *EXTRACT], cwd=scipion, capture_output=True, timeout=120, check=True
        )

    run()
    whole, torn = (scipion / "tmp" / f"{item}.mrcs" for item in ITEMS)
    before, at = torn.read_bytes(), whole.stat().st_mtime_ns
    torn.write_bytes(before[:3000])
    (scipion / "particles.star").unlink()
    run()
    assert (torn.read_bytes()[1024:], whole.stat().st_mtime_ns) == (before[1024:], at)
    text = (scipion / "particles.star").read_text()
    assert [text.count(f"{item}.mrcs") for item in ITEMS] == [2, 2]
