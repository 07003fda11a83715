"""What the wheel holds is what the disk holds: editable installs hide a forgotten sub-folder."""

import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PARTS = ("steps", "cluster", "db", "scheduler")


def setuptools() -> dict[str, object]:
    with (TOP / "pyproject.toml").open("rb") as file:
        found: dict[str, object] = tomllib.load(file)["tool"]["setuptools"]
        return found


def test_every_folder_with_modules_is_a_listed_package() -> None:
    on_disk = {
        "scsched." + ".".join(folder.parent.relative_to(TOP).parts)
        for part in PARTS
        for folder in (TOP / part).rglob("__init__.py")
    }
    assert on_disk == set(setuptools()["packages"])  # type: ignore[call-overload]


def test_every_part_is_mapped_and_typed() -> None:
    assert setuptools()["package-dir"] == {f"scsched.{part}": part for part in PARTS}
    assert all((TOP / part / "py.typed").is_file() for part in PARTS)


def test_data_files_in_packages_have_a_listed_ending() -> None:
    listed = setuptools()["package-data"]["*"]  # type: ignore[index]
    endings = {pattern.lstrip("*") for pattern in listed}
    data = [
        path
        for part in PARTS
        for path in (TOP / part).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert {path.name for path in data if not {path.name, path.suffix} & endings} == set()


def test_no_module_of_ours_names_a_network_host() -> None:
    words = ("https://pypi", "http://pypi", "deb.debian.org", "registry.npmjs")
    texts = {path: path.read_text() for part in PARTS for path in (TOP / part).rglob("*.py")}
    assert [str(path) for path, text in texts.items() for word in words if word in text] == []
