"""RELION writes on one host what the other certifies: no torn iteration passes, none is missed."""

import json
import sys
from pathlib import Path

import pytest

from scsched.steps import checkpoint, lineage
from scsched.steps.checkpoint import Branch
from scsched.steps.lineage import Attempt, Lineage
from tests.nfs import places
from tests.nfs.conftest import Shared
from tests.nfs.export import missing, until
from tests.relion_data import CLASS_2D, Particles, make_project, needs_relion

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no NFS in user space: {missing()}"),
]
PROGRAM = Path(__file__).with_name("on_host.py")
ROOT = "class2d/run"
PARTICLES = 60
ITERATIONS = 4


@pytest.mark.relion
@needs_relion
def test_a_checkpoint_is_certified_alike_on_another_host(shared: Shared, tmp_path: Path) -> None:
    on_disk = make_project(shared.disk / "p", Particles(n=PARTICLES))
    (on_disk / "class2d").mkdir()
    project = shared.path / "p"
    said = tmp_path / "certified"
    words = ("certify", str(project), ROOT, str(PARTICLES))
    watching = shared.b.start(sys.executable, "-I", str(PROGRAM), *words, out=said)
    try:
        shared.a.run(
            *("env", "--chdir", str(project), "relion_refine", "--i", "particles.star"),
            *("--o", ROOT, "--iter", str(ITERATIONS), "--K", "2", *CLASS_2D),
            timeout_s=240,
        )
        last = f'{{"iteration": {ITERATIONS},'
        until(lambda: last in said.read_text(), "the last iteration is not seen", said)
    finally:
        places.end(watching)
    found = [json.loads(line) for line in said.read_text().splitlines()]
    assert [one["iteration"] for one in found] == sorted(one["iteration"] for one in found)
    assert len(found) > 1, "only the last iteration was seen"
    for one in found:
        final = {name: (on_disk / name).stat().st_size for name in one["sizes"]}
        assert one["sizes"] == final, f"iteration {one['iteration']} was certified too early"
    true = checkpoint.newest([Branch(ROOT)], project=on_disk, particles=PARTICLES).newest
    assert true is not None
    assert true.iteration == ITERATIONS
    assert sorted(found[-1]["sizes"]) == sorted(true.files)


def test_the_record_of_an_attempt_is_seen_at_once_by_who_asked_too_early(
    shared: Shared, tmp_path: Path
) -> None:
    """The kernel's client believes for up to a minute that a file is missing."""
    base = "Runs/1_Class/extra/relion"
    on_disk, far = shared.disk / "q", tmp_path / "far"
    folder = lineage.folder_of(base, project=on_disk)
    folder.mkdir(parents=True)
    said = tmp_path / "said"
    record = Lineage().with_attempt(
        Attempt(
            2, base, f"{base}_a2", "f", resumed_from=f"{base}_it003_optimiser.star", iteration=3
        )
    )
    with shared.export.mount_in(shared.b, str(far), cache_s=60.0):
        words = ("resumed", str(far / "q"), base)
        asking = shared.b.start(sys.executable, "-I", str(PROGRAM), *words, out=said)
        try:
            until(lambda: said.read_text() == "None\n", "it does not ask", said)
            lineage.save(record, folder)
            until(lambda: said.read_text() == "None\n3\n", "it is not seen", said, timeout_s=10)
        finally:
            places.end(asking)
