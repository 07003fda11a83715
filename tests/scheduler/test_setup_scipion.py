"""`scsched setup scipion` does what is missing, and no more. Pip itself is not called here."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from scsched.scheduler import setup_scipion
from scsched.scheduler.setup_scipion import LOCK, SetupError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands it would have run; `-m venv` leaves a Python behind, as the real one does."""
    seen: list[list[str]] = []

    def note(argv: Sequence[str], timeout_s: float) -> None:
        assert timeout_s > 0
        seen.append(list(argv))
        if "venv" in argv:
            python = Path(argv[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(setup_scipion, "_run", note)
    monkeypatch.setattr(setup_scipion, "_probe", lambda _: "3.11")
    return seen


def quiet(_: str) -> None:
    pass


def install(folder: Path) -> Path:
    return setup_scipion.install(folder, python=Path("/usr/bin/python3.11"), say=quiet)


def test_it_installs_by_hash_and_says_where(tmp_path: Path, calls: list[list[str]]) -> None:
    python = install(tmp_path / "a b")
    assert python == tmp_path / "a b" / "venv" / "bin" / "python"
    assert [call[0] for call in calls] == ["/usr/bin/python3.11", str(python), str(python)]
    assert "--require-hashes" in calls[1]


def test_a_repeat_does_nothing(tmp_path: Path, calls: list[list[str]]) -> None:
    install(tmp_path)
    before = len(calls)
    install(tmp_path)
    assert len(calls) == before


def test_an_interrupted_one_goes_on_with_its_environment(
    tmp_path: Path, calls: list[list[str]]
) -> None:
    install(tmp_path)
    (tmp_path / "venv" / ".scsched").unlink()
    calls.clear()
    install(tmp_path)
    assert not any("venv" in call for call in calls)
    assert any("--require-hashes" in call for call in calls)


def test_a_new_lock_is_installed(
    tmp_path: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    other = tmp_path / "other.lock"
    other.write_text("x==1")
    monkeypatch.setattr(setup_scipion, "LOCK", other)
    calls.clear()
    install(tmp_path)
    assert str(other) in calls[0]


def test_no_fitting_python_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_scipion, "_probe", lambda _: "")
    with pytest.raises(SetupError, match="tkinter") as refused:
        setup_scipion.find_python()
    assert refused.value.hint.startswith("sudo apt-get install")


def test_a_failing_command_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="ended with"):
        setup_scipion._run(["/usr/bin/python3", "-c", "raise SystemExit('no')"], 30)
    with pytest.raises(SetupError, match="No such file"):
        setup_scipion._run([str(tmp_path / "none")], 30)


def test_the_lock_names_every_version_by_hash_and_no_index() -> None:
    text = LOCK.read_text()
    pins = re.findall(r"^[a-z0-9-]+==\S+ \\$", text, flags=re.MULTILINE)
    assert len(pins) > 30
    assert text.count("--hash=sha256:") > len(pins)
    assert "index" not in text.replace("--no-emit-index-url", "")
    for needed in ("scipion-pyworkflow==", "scipion-em==", "scipion-em-relion=="):
        assert needed in text
