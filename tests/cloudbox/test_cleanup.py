"""A box leaves nothing on the machine, however it ends."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.cloudbox import cgroups
from tests.cloudbox.asking import wait_until
from tests.cloudbox.client import REPOSITORY, Box
from tests.cloudbox.fixtures import skip_where_hosts_cannot_boot
from tests.cloudbox.hosted import boot


def left(directory: Path, bridge: str) -> list[str]:
    """What is still there of a box: processes, links, groups, mounts."""
    name = f"{directory}".encode()
    found = [f"process {one.parent.name}" for one in _commands() if name in _read(one)]
    found += [one.name for one in Path("/sys/class/net").iterdir() if one.name == bridge]
    found += [str(one) for one in cgroups.ROOT.glob(f"*/cloudbox-{bridge[2:]}-*")]
    found += [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line
    ]
    return found


def _commands() -> list[Path]:
    return [one for one in Path("/proc").glob("[0-9]*/cmdline") if one.parent.name != "self"]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_stopped_box_leaves_nothing(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    with Box(tmp_path / "own box", boot=True) as own:
        found = boot(own, "#!/bin/sh\nsleep 600\n", count=2)
        own.freeze(found[0])
        bridge = own.bridge
        assert len(left(own.directory, bridge)) > 6
    wait_until(lambda: left(own.directory, bridge) == [])


def test_a_killed_box_leaves_nothing(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    own = Box(tmp_path / "own box", boot=True).start()
    found = boot(own, "#!/bin/sh\nsleep 600\n", count=2)
    own.freeze(found[0])
    bridge = own.bridge
    os.kill(own.pid, signal.SIGKILL)
    wait_until(lambda: left(own.directory, bridge) == [])
    own.stop()


def test_a_box_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from tests.cloudbox.client import Box
        box = Box(Path(sys.argv[1]), boot=True).start()
        print(box.bridge, flush=True)
        time.sleep(600)
    """)
    directory = tmp_path / "own box"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        bridge = starter.stdout.readline().strip()
        assert left(directory, bridge)
        starter.kill()
    wait_until(lambda: left(directory, bridge) == [])


def test_a_sweep_removes_only_what_the_box_has_made(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    (tmp_path / "made.jsonl").write_text(
        '{"what": "bridge", "name": "lo", "alias": "cloudbox x"}\n'
    )
    argv = [sys.executable, "-m", "tests.cloudbox", "--sweep", str(tmp_path)]
    subprocess.run(argv, cwd=REPOSITORY, check=True, timeout=60)
    assert Path("/sys/class/net/lo").exists()
