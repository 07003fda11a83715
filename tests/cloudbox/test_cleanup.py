"""A box leaves nothing on the machine, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cloudbox import cgroups
from tests.cloudbox.asking import wait_until
from tests.cloudbox.client import REPOSITORY, Box
from tests.cloudbox.fixtures import skip_where_hosts_cannot_boot
from tests.cloudbox.hosted import boot
from tests.cloudbox.network import ip_batch, remove_link


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


def together(*calls: Callable[[], object]) -> None:
    """All at the same time; what one raises is raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(one) for one in calls]:
            done.result()


def test_a_link_is_removed_by_all_who_try_at_once(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    for number in range(5):
        link = f"cbt{os.getpid():x}x{number}"
        ip_batch(f"link add {link} type veth")
        try:
            together(*[lambda link=link: remove_link(link)] * 8)
        finally:
            remove_link(link)


def test_a_box_ends_though_its_hosts_die_under_its_hands(tmp_path: Path) -> None:
    skip_where_hosts_cannot_boot()
    with contextlib.ExitStack() as stack:
        own = Box(tmp_path / "own box", boot=True).start()
        stack.callback(own.stop)
        bridge, hosts = own.bridge, boot(own, count=6)
        kills = [stack.enter_context(killing(own, one)) for one in hosts]
        together(*kills[:3], *[lambda one=one: own.lose(one) for one in hosts[:3] * 4])
        together(*kills[3:], own.stop)
    wait_until(lambda: left(own.directory, bridge) == [])


@contextlib.contextmanager
def killing(box: Box, instance: str) -> Iterator[Callable[[], None]]:
    """What kills the first process of a host, and nobody who has its number later."""
    pid = box.instance(instance).pid
    assert pid is not None
    handle = os.pidfd_open(pid)

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)

    yield kill
    os.close(handle)


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
