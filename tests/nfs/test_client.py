"""The stand-in for the kernel's NFS client behaves as nfs(5) says, nuisances too."""

import subprocess
from pathlib import Path

import pytest

from tests.nfs.conftest import Shared
from tests.nfs.export import missing, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no NFS in user space: {missing()}"),
]
RACE = "import os, sys; os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY))"


@pytest.fixture
def folder(shared: Shared, request: pytest.FixtureRequest) -> Path:
    made = shared.path / str(request.node.name)
    shared.a.run("mkdir", str(made))
    return made


def shell(line: str, *words: str) -> tuple[str, ...]:
    return ("sh", "-c", line, "sh", *words)


def test_opening_a_file_shows_what_another_host_has_closed(shared: Shared, folder: Path) -> None:
    file = str(folder / "f")
    for text in ("one", "a longer two", "3"):
        shared.a.run(*shell('printf %s "$2" > "$1"', file, text))
        assert shared.b.run("cat", file) == text
        assert (shared.disk / folder.name / "f").read_text() == text


def test_a_missing_name_is_believed_missing_until_its_folder_is_read(
    shared: Shared, folder: Path
) -> None:
    file = str(folder / "f")
    line = 'stat -c %s "$1" 2>/dev/null || echo missing'
    assert shared.b.run(*shell(line, file)) == "missing\n"
    shared.a.run(*shell('printf 12345 > "$1"', file))
    assert shared.b.run(*shell(line, file)) == "missing\n"
    assert shared.b.run("ls", str(folder)) == "f\n"
    assert shared.b.run(*shell(line, file)) == "5\n"


def test_sizes_are_believed_for_seconds_unless_the_file_is_opened(
    shared: Shared, folder: Path
) -> None:
    file = str(folder / "f")
    shared.a.run(*shell('printf 12345 > "$1"', file))
    assert shared.b.run("stat", "-c", "%s", file) == "5\n"
    shared.a.run(*shell('printf 67 >> "$1"', file))
    assert shared.b.run("stat", "-c", "%s", file) == "5\n"
    assert shared.b.run("cat", file) == "1234567"
    assert shared.b.run("stat", "-c", "%s", file) == "7\n"


def test_one_host_alone_creates_a_file_exclusively(shared: Shared, folder: Path) -> None:
    for number in range(5):
        file = str(folder / f"f{number}")
        racers = [
            subprocess.Popen(
                place.argv("/usr/bin/python3", "-I", "-c", RACE, file), stderr=subprocess.DEVNULL
            )
            for place in (shared.a, shared.b)
        ]
        assert sorted(racer.wait(20) for racer in racers) == [0, 1]


def test_names_links_modes_and_owners_are_the_same_everywhere(shared: Shared, folder: Path) -> None:
    shared.a.run(*shell('cd "$1" && mkdir d && echo x > d/f && ln d/f g && ln -s g s', str(folder)))
    shared.a.run(*shell('cd "$1" && chmod 640 g && chown 12:34 g && mv d e', str(folder)))
    assert (
        shared.b.run(*shell('cd "$1" && stat -c "%a %u:%g %h" g', str(folder))) == "640 12:34 2\n"
    )
    assert shared.b.run(*shell('cd "$1" && cat s e/f && ls', str(folder))) == "x\nx\ne\ng\ns\n"
    shared.b.run(*shell('cd "$1" && touch -d @1000000000 g && truncate -s 1 g', str(folder)))
    assert shared.a.run(*shell('cd "$1" && cat g', str(folder))) == "x"


def test_who_creates_a_file_owns_it(shared: Shared, folder: Path) -> None:
    shared.a.run("chmod", "777", str(folder))
    as_user = ("setpriv", "--reuid=1234", "--regid=5678", "--clear-groups")
    with shared.export.mount_in(shared.a, "/mnt"):  # others may not enter the test's own folder
        made = f"/mnt/{folder.name}"
        shared.a.run(*as_user, *shell('echo x > "$1/f" && mkdir "$1/d"', made))
    owner = shared.b.run("stat", "-c", "%u:%g", str(folder / "f"), str(folder / "d"))
    assert owner == "1234:5678\n" * 2


def test_a_removed_file_stays_readable_for_who_has_it_open(shared: Shared, folder: Path) -> None:
    line = 'exec 3< "$1"; rm "$1"; cat <&3; ls -A "$2" | wc -l'
    file = str(folder / "f")
    shared.a.run(*shell('echo kept > "$1"', file))
    said = shared.a.run(*shell(line, file, str(folder)))
    assert said == "kept\n1\n", "it has a hidden name for as long, as .nfsXXXX has"
    until(lambda: not list((shared.disk / folder.name).iterdir()), "the hidden name stays")
