"""The table covers what Scipion has; a site and a submitter may add to it."""

import csv
from pathlib import Path

import pytest

from scsched.steps import classes
from scsched.steps.classes import ClassInfo, GpuNeed
from scsched.steps.errors import ConfigError, UsageError
from scsched.steps.spec import ResourceClass, Resume, Shape

COLLECTED = Path(__file__).parents[3] / "shared" / "data" / "scipion_classes.tsv"


@pytest.fixture(scope="module")
def collected() -> list[dict[str, str]]:
    if not COLLECTED.exists():
        pytest.skip(f"no {COLLECTED}")
    with COLLECTED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab", quoting=csv.QUOTE_NONE))


def test_every_collected_class_is_in_the_table(collected: list[dict[str, str]]) -> None:
    assert {row["class"] for row in collected} == set(classes.table())


def test_gates_and_monitors_are_those_collected(collected: list[dict[str, str]]) -> None:
    for row in collected:
        info = classes.table()[row["class"]]
        assert bool(info.gate) == (row["interactive"] == "yes" or row["class"] == "LegacyProtocol")
        assert info.long_lived == row["resource_nature"].startswith("monitor")
        assert (info.gpu is GpuNeed.REQUIRED) == (row["needs_gpu"] == "yes")
        assert info.items == (row["steps_mode"] == "parallel")


def test_the_table_contradicts_itself_nowhere() -> None:
    for info in classes.table().values():
        assert bool(info.gate) == (info.resource_class is ResourceClass.INTERACTIVE)
        if info.long_lived or info.gate:
            assert info.gpu is not GpuNeed.REQUIRED
            assert info.resource_class in (ResourceClass.LIGHT, ResourceClass.INTERACTIVE)
        if info.today:
            assert info.today in classes.table()
        if info.resume is Resume.ITERATION:
            assert info.memory


def test_the_relion_refinements_resume_from_iterations() -> None:
    resumable = {n for n, i in classes.table().items() if i.resume is Resume.ITERATION}
    names = ("Classify2D", "Classify3D", "InitialModel", "Refine3D")
    assert resumable == {f"ProtRelion{name}" for name in names}
    assert classes.table()["ProtRelionRefine3D"].shape is Shape.SPLIT_HALVES


@pytest.mark.parametrize(
    "name", ["Motioncor", "2Autopick", "AutopickLoG", "ExtractParticles", "PreprocessParticles"]
)
def test_relions_movie_and_micrograph_protocols_keep_finished_items(name: str) -> None:
    """Scipion marks each finished movie or micrograph, or the launcher lets RELION skip it."""
    assert classes.table()[f"ProtRelion{name}"].resume is Resume.ITEM


def test_twins_that_differ_in_one_letter_are_two_classes() -> None:
    assert {"ProtRelionPostprocess", "ProtRelionPostProcess"} <= set(classes.table())


def test_an_unknown_class_is_none_and_has_near_names() -> None:
    assert classes.find("ProtRelionClasify2D") is None
    assert classes.near("ProtRelionClasify2D")[0] == "ProtRelionClassify2D"
    assert classes.near("zzz") == ()


def test_the_site_wins_over_the_table_and_the_map_over_both() -> None:
    mine = ClassInfo(protocol="ProtWait", resource_class=ResourceClass.CPU, resume=Resume.ITEM)
    maps = {"ProtWait": ResourceClass.MEMORY}
    assert classes.find("ProtWait", site={"ProtWait": mine}) is mine
    found = classes.find("ProtWait", site={"ProtWait": mine}, maps=maps)
    assert found is not None
    assert (found.resource_class, found.resume) == (ResourceClass.MEMORY, Resume.ITEM)


@pytest.mark.parametrize("word", list(ResourceClass))
def test_any_class_may_be_mapped(word: ResourceClass) -> None:
    name, resource_class = classes.parse_map(f" Mine = {word} ")
    info = classes.find(name, maps={name: resource_class})
    assert info is not None
    assert info.resource_class is word
    assert bool(info.gate) == (word is ResourceClass.INTERACTIVE)


@pytest.mark.parametrize("text", ["Mine", "Mine=fast", "=", ""])
def test_a_wrong_map_lists_the_words(text: str) -> None:
    with pytest.raises(UsageError, match="cpu-bound"):
        classes.parse_map(text)


def test_a_class_of_the_site_is_read_from_its_config() -> None:
    values = {"class": "gpu-bound", "long_lived": False, "resume": "item", "shape": "threads"}
    info = classes.from_site("Mine", values, where="s.toml classes.Mine")
    assert (info.resource_class, info.resume) == (ResourceClass.GPU, Resume.ITEM)


@pytest.mark.parametrize("values", [{}, {"class": "big"}, {"class": "light", "gpus": 1}])
def test_a_wrong_class_of_the_site_names_file_and_key(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"s\.toml classes\.Mine"):
        classes.from_site("Mine", values, where="s.toml classes.Mine")
