import json
from dataclasses import replace
from pathlib import Path

import pytest

from scsched.steps import command, files, lineage, publish, resume
from scsched.steps.checkpoint import Branch
from scsched.steps.lineage import Attempt, Lineage

BASE = "Runs/000002_Class/extra/relion"
ASKED = "mpirun -np 3 relion_refine_mpi --i in.star --o {} --iter 9 --K 2 --j 4 --skip_align"


def attempt(number: int, resumed: str = "", iteration: int = 0, **kwargs: bool) -> Attempt:
    root = BASE if number == 1 else f"{BASE}_a{number}"
    return Attempt(
        number=number,
        base=BASE,
        root=root,
        fingerprint=command.fingerprint(asked()),
        resumed_from=f"{BASE}{resumed}_it{iteration:03d}_optimiser.star" if iteration else "",
        iteration=iteration,
        exact=kwargs.get("exact", False),
        published=kwargs.get("published", False),
    )


def asked(extra: str = "") -> command.Command:
    found = command.parse(f"{ASKED.format(BASE)} {extra}".split())
    assert found is not None
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / BASE).parent.mkdir(parents=True)
    return tmp_path


def write(project: Path, *names: str) -> None:
    for name in names:
        (project / BASE).with_name(name).write_text(f"{name} {BASE}_a2_it005_class001.mrc\n")


def names(project: Path) -> set[str]:
    return {path.name for path in (project / BASE).parent.iterdir() if path.is_file()}


def test_a_record_is_read_as_it_was_written(project: Path) -> None:
    folder = lineage.folder_of(BASE, project=project)
    record = Lineage((attempt(1), attempt(2, iteration=3)))
    lineage.save(record, folder)
    assert lineage.load(folder) == record
    assert json.loads((folder / "lineage.json").read_text())["schema"] == lineage.SCHEMA
    assert [path.name for path in folder.iterdir()] == ["lineage.json"]


def test_no_record_and_a_broken_one_are_none(project: Path) -> None:
    folder = lineage.folder_of(BASE, project=project)
    assert lineage.load(folder) is None
    folder.mkdir()
    for broken in ("", '{"attempts": [{"number": 1}]}', "[]", "null"):
        (folder / "lineage.json").write_text(broken)
        assert lineage.load(folder) is None


def test_a_record_that_cannot_be_written_leaves_the_old_one(project: Path) -> None:
    folder = lineage.folder_of(BASE, project=project)
    lineage.save(Lineage((attempt(1),)), folder)

    def fails(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write_whole(folder / "lineage.json", fails)
    assert lineage.load(folder) == Lineage((attempt(1),))


def test_the_living_line_follows_the_checkpoints() -> None:
    record = Lineage((attempt(1), attempt(2, iteration=3), attempt(3, "_a2", 5)))
    assert record.branches(BASE) == (
        Branch(f"{BASE}_a3", None, after=5),
        Branch(f"{BASE}_a2", 5, after=3),
        Branch(BASE, 3),
    )


def test_an_attempt_that_began_anew_has_no_past() -> None:
    record = Lineage((attempt(1), attempt(2)))
    assert record.branches(BASE) == (Branch(f"{BASE}_a2"),)


def test_a_dead_branch_is_not_of_the_living_line() -> None:
    record = Lineage((attempt(1), attempt(2, iteration=3), attempt(3, iteration=2)))
    assert record.branches(BASE) == (Branch(f"{BASE}_a3", None, after=2), Branch(BASE, 2))


def test_what_is_published_is_under_the_expected_names() -> None:
    record = Lineage((attempt(1), attempt(2, iteration=3, published=True)))
    assert record.branches(BASE) == (Branch(BASE),)


def test_an_exact_attempt_writes_the_expected_names() -> None:
    exact = replace(attempt(2, iteration=3, exact=True), root=BASE)
    assert Lineage((attempt(1), exact)).branches(BASE) == (Branch(BASE),)


def test_publishing_links_the_living_line_and_drops_the_dead(project: Path) -> None:
    dead = ["relion_it004_data.star", "relion_it004_classes_scipion.sqlite", "relion_class001.mrc"]
    write(project, "relion_it003_data.star", *dead, "relion_notes.txt", "other_it009_data.star")
    write(project, "relion_a2_it003_data.star", "relion_a2_it004_data.star")
    write(project, "relion_a3_it004_data.star", "relion_a3_it005_data.star")
    write(project, "relion_a3_data.star", "relion_a2_it005_data.star")
    record = Lineage((attempt(1), attempt(2, iteration=3), attempt(3, "_a2", 4)))
    linked = publish.publish(BASE, record.branches(BASE), project=project)
    assert linked == ("relion_it004_data.star", "relion_data.star", "relion_it005_data.star")
    content = {
        name: (project / BASE).with_name(name).read_text().split()[0]
        for name in names(project)
        if not name.startswith("relion_a")
    }
    assert content == {
        "relion_it003_data.star": "relion_it003_data.star",
        "relion_it004_data.star": "relion_a2_it004_data.star",
        "relion_it005_data.star": "relion_a3_it005_data.star",
        "relion_data.star": "relion_a3_data.star",
        "relion_notes.txt": "relion_notes.txt",
        "other_it009_data.star": "other_it009_data.star",
    }


def test_published_stars_name_the_published_maps(project: Path) -> None:
    write(project, "relion_a2_it005_model.star", "relion_a2_it005_optimiser.star")
    publish.publish(BASE, Lineage((attempt(1), attempt(2))).branches(BASE), project=project)
    text = (project / f"{BASE}_it005_model.star").read_text()
    assert text == f"relion_a2_it005_model.star {BASE}_it005_class001.mrc\n"


def test_publishing_twice_is_as_publishing_once(project: Path) -> None:
    write(project, "relion_it003_data.star", "relion_a2_it004_data.star")
    branches = Lineage((attempt(1), attempt(2, iteration=3))).branches(BASE)
    once = (publish.publish(BASE, branches, project=project), names(project))
    assert (publish.publish(BASE, branches, project=project), names(project)) == once


def test_publishing_copies_where_links_cannot_be(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuses)
    write(project, "relion_a2_it001_data.star")
    publish.publish(BASE, Lineage((attempt(1), attempt(2))).branches(BASE), project=project)
    assert (project / f"{BASE}_it001_data.star").read_text().startswith("relion_a2_it001")


def test_the_first_attempt_runs_as_asked(project: Path) -> None:
    plan = resume.plan(asked(), Lineage(), project=project)
    assert plan == resume.Anew(BASE, 1, "first attempt")


def test_files_without_a_record_are_not_trusted(project: Path) -> None:
    write(project, "relion_it004_optimiser.star", "relion_it004_classes_scipion.sqlite")
    plan = resume.plan(asked(), Lineage(), project=project)
    assert isinstance(plan, resume.Anew)
    assert plan.set_aside
    moved = publish.set_aside(BASE, project / "aside", project=project)
    assert len(moved) == 2
    assert not names(project)


def test_other_parameters_begin_anew(project: Path) -> None:
    record = Lineage((attempt(1),))
    plan = resume.plan(asked("--tau2_fudge 4"), record, project=project)
    assert isinstance(plan, resume.Anew)
    assert (plan.root, plan.why, plan.set_aside) == (f"{BASE}_a2", "its parameters changed", True)


def test_other_ranks_threads_and_iterations_are_the_same_job() -> None:
    other = command.parse(
        f"relion_refine --i in.star --o {BASE} --iter 12 --K 2 --skip_align".split()
    )
    assert other is not None
    assert command.fingerprint(other) == command.fingerprint(asked("--gpu 0,1 --scratch_dir /s"))
    assert command.fingerprint(other) != command.fingerprint(asked("--ctf"))


def test_a_number_is_never_used_twice(project: Path) -> None:
    record = Lineage((attempt(1), attempt(4)))
    plan = resume.plan(asked(), record, project=project, attempt=2)
    assert plan.number == 5


def test_a_run_that_ended_well_unlinked_is_only_linked(project: Path) -> None:
    record = Lineage((attempt(1), replace(attempt(2, iteration=3), exit_code=0)))
    assert isinstance(resume.plan(asked(), record, project=project), resume.Finish)


def test_continue_keeps_what_relion_does_not_remember() -> None:
    again = command.continued(asked("--ctf --pool 3"), optimiser="x_it004_optimiser.star", root="r")
    assert " ".join(again.argv) == (
        "mpirun -np 3 relion_refine_mpi --continue x_it004_optimiser.star --o r --iter 9"
        " --j 4 --skip_align --pool 3"
    )


def test_continue_leaves_iter_out_of_a_gradient_run() -> None:
    again = command.continued(asked("--sgd"), optimiser="x", root="r")
    assert not again.has("--iter")


def test_what_every_attempt_is_given() -> None:
    given = resume.shared(asked("--scratch_dir /there"), scratch="/mine")
    assert given.value("--pipeline_control") == "Runs/000002_Class/extra/"
    assert given.has("--dont_combine_weights_via_disc")
    assert given.value("--scratch_dir") == "/mine"
    serial = command.parse(["relion_refine", "--o", "run", "--pipeline_control", "x/"])
    assert serial is not None
    kept = resume.shared(serial, scratch="/mine")
    assert kept.argv == ["relion_refine", "--o", "run", "--pipeline_control", "x/"]


def test_a_command_line_comes_back_as_it_went_in() -> None:
    argv = ["mpirun", "-x", "A B", "/opt/relion_preprocess_mpi", "--i", "my mic.star", "--gpu", ""]
    found = command.parse([*argv, "--white_dust", "-1", "--norm"])
    assert found is not None
    assert found.argv == [*argv, "--white_dust", "-1", "--norm"]
    assert found.value("--white_dust") == "-1"
    assert command.parse(["true", "--o", "x"]) is None


@pytest.mark.parametrize(
    ("extra", "can"),
    [("", True), ("--sgd", False), ("--auto_refine", False), ("--continue x", False)],
)
def test_only_classification_can_be_exact(extra: str, can: bool) -> None:
    assert resume.can_be_exact(asked(extra)) is can


def test_an_exact_run_has_a_seed_that_follows_from_the_command() -> None:
    seeded = resume.with_seed(asked("--random_seed -1"))
    assert seeded == resume.with_seed(asked("--random_seed -1"))
    assert int(seeded.value("--random_seed")) > 0
    assert resume.with_seed(asked("--random_seed 42")).value("--random_seed") == "42"
