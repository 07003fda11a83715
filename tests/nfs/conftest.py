"""One NFS server and two hosts that have mounted it; made once for all tests of a module."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nfs.export import NfsExport
from tests.nfs.places import Place, Switch, switch


@dataclass(frozen=True, slots=True)
class Shared:
    """`path` is the same storage on `a` and `b`, and the folder `disk` at the server."""

    hosts: Switch
    export: NfsExport
    a: Place
    b: Place
    path: Path
    disk: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    root = tmp_path_factory.mktemp("nfs")
    disk, path = root / "disk", root / "shared"
    disk.mkdir()
    disk.chmod(0o777)
    with switch() as hosts:
        server, a, b = hosts.place(), hosts.place(), hosts.place()
        with (
            NfsExport(server, disk, root / "work") as export,
            export.mount_in(a, str(path)),
            export.mount_in(b, str(path)),
        ):
            yield Shared(hosts, export, a, b, path, disk)
