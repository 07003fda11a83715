"""The script that starts nodes of other machines: what is in it, and what it does on a host."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from scsched.cluster import remote
from scsched.cluster.node_spec import read_gang
from scsched.cluster.pools import Market, Pool, Storage
from scsched.cluster.provider import BadRequest, Desk, Join, LaunchRequest, Owner
from scsched.cluster.remote import NodeProgram, NoticeSource, bootstrap
from scsched.steps.errors import ConfigError
from tests.cluster.hosts import Hosts, needs_hosts, wait_until

TICKET = "ab" * 32
PROGRAM = NodeProgram(python="/opt/it's here/python", notice=NoticeSource.IMDS, index="echo 1")
POOL = Pool(
    name="far",
    provider="ec2",
    market=Market.SPOT,
    max_nodes=9,
    cores=2,
    memory_gib=4.0,
    usd_per_hour=Decimal(1),
    remote=True,
)


def request(index: int = 0, **changes: object) -> LaunchRequest:
    made = LaunchRequest(
        token=f"dep-w1-g3-{index}",
        name=f"n{index}",
        pool=POOL,
        owner=Owner(uid=4321, gid=4322, username="o'brian $(x)"),
        join=Join(
            scheduler_address="tls://10.0.0.1:4000",
            tls_dir=Path("/secret/tls"),
            work_dir=Path("/w"),
            desk=Desk("10.0.0.1:4001", "cd" * 32),
        ),
        deployment="dep",
        ticket=TICKET,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_script_is_the_same_for_the_same_requests_and_small() -> None:
    gang = [request(k) for k in range(16)]
    script = bootstrap(gang, PROGRAM)
    assert script == bootstrap([request(k) for k in range(16)], PROGRAM)
    assert len(script.encode()) < 10_000
    assert script != bootstrap(gang[:-1], PROGRAM)


def test_there_is_no_key_in_the_script() -> None:
    script = bootstrap([request()], PROGRAM)
    assert "PRIVATE" not in script
    assert "/secret" not in script
    assert script.count(TICKET) == 1


def test_a_gang_too_large_for_user_data_is_refused() -> None:
    with pytest.raises(BadRequest, match="over 16000"):
        bootstrap([request(k) for k in range(200)], PROGRAM)


@pytest.mark.parametrize(
    ("gang", "why"),
    [
        ([], "no node"),
        ([request(1), request(0)], "not in order"),
        ([request(0), request(1, token="dep-w1-g4-1")], "of another gang"),
        ([request(0), request(1, deployment="x")], "of another owner"),
        ([request(0, ticket="")], "needs a desk and a ticket"),
        ([request(0, join=replace(request().join, desk=None))], "needs a desk and a ticket"),
        ([request(0, name="a b")], "node name"),
    ],
)
def test_what_is_no_gang_is_refused(gang: list[LaunchRequest], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        bootstrap(gang, PROGRAM)


def test_a_machine_of_a_gang_must_be_able_to_tell_its_place() -> None:
    with pytest.raises(BadRequest, match="cannot tell its place"):
        bootstrap([request(0), request(1)], replace(PROGRAM, index=""))
    assert "print_index() { echo 7; }" in bootstrap([request(7)], replace(PROGRAM, index=""))


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_values_with_quotes_stay_values(shell: str, tmp_path: Path) -> None:
    script = bootstrap([request()], PROGRAM)
    probe = tmp_path / "probe.sh"
    probe.write_text(script.rpartition("main\n")[0] + 'printf "%s|" "$user" "$python"; write_gang')
    done = subprocess.run([shell, probe], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.startswith("o'brian $(x)|/opt/it's here/python|{")
    (tmp_path / "gang.json").write_text(done.stdout[done.stdout.index("{") :])
    spec = read_gang(tmp_path / "gang.json", "0")
    assert (spec.name, spec.token, spec.ticket) == ("n0", "dep-w1-g3-0", TICKET)
    assert (spec.desk, spec.fingerprint) == ("10.0.0.1:4001", "cd" * 32)
    assert spec.notice is NoticeSource.IMDS
    assert spec.work_dir == "/var/tmp/scsched-4321"
    assert spec.lease_file == str(tmp_path / "lease")


def test_slurms_place_and_a_place_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gang.json"
    path.write_text(json.dumps(remote.gang_file([request(0), request(1)], PROGRAM)))
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert read_gang(path, "slurm").name == "n1"
    for wrong in ("2", "x", ""):
        with pytest.raises(ConfigError, match=r"gang\.json: no start of node"):
            read_gang(path, wrong)


NODE = """#!/bin/sh
echo "node: $* as $(id -u):$(id -g) $USER in $HOME, lease $(stat -c %u "${5%/*}/lease")"
"""
"""Takes the place of Python."""

Start = Callable[..., None]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    (tmp_path / "shared").mkdir(mode=0o777)
    made = Hosts(tmp_path / "hosts", tmp_path / "shared")
    yield made
    made.close()


@pytest.fixture
def start(hosts: Hosts, tmp_path: Path) -> Start:
    """Start a host whose node is a shell script."""

    def start(
        node: str = NODE, program: NodeProgram = PROGRAM, tries: int = 10, **pool: object
    ) -> None:
        python = tmp_path / "shared" / "python"
        python.write_text(node)
        python.chmod(0o755)
        asked = request(1, pool=replace(POOL, **pool))  # type: ignore[arg-type]
        script = bootstrap([asked], replace(program, python=str(python)))
        assert "-ge 10 ]" in script
        hosts.start(0, script.replace("-ge 10 ]", f"-ge {tries} ]"))

    return start


@needs_hosts
def test_a_machine_makes_the_account_runs_the_node_and_goes_off(hosts: Hosts, start: Start) -> None:
    start()
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    said = hosts.console(0)
    assert "-I -m scsched.cluster.node --gang /run/scsched/gang.json --index 1" in said
    assert "as 4321:4322 scsched4321 in /home/scsched4321, lease 4321" in said, said
    assert "node 1 of dep-w1-g3 ended with 0" in said
    assert hosts.power(0) == "/usr/local/sbin/shutdown -h now\n"
    assert "4321" not in Path("/etc/passwd").read_text()


@needs_hosts
def test_the_owner_cannot_become_root(hosts: Hosts, start: Start) -> None:
    """Not even where the image has an account of that number that may use sudo."""
    start("#!/bin/sh\ngrep NoNewPrivs /proc/self/status; id -u")
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert "NoNewPrivs:\t1\n4321\n" in hosts.console(0)


@needs_hosts
def test_a_machine_that_boots_again_goes_off(hosts: Hosts, start: Start) -> None:
    """Nothing starts its node and its watchdog again: this unit is all that runs then."""
    start("#!/bin/sh\nuntil [ -e /var/tmp/go ]; do sleep 0.1; done")
    wait_until(lambda: "start of" in hosts.console(0))
    wanted = "/etc/systemd/system/multi-user.target.wants/scsched-end.service"
    unit = hosts.run(0, "cat", wanted).stdout
    assert "ConditionPathExists=!/run/scsched\n" in unit
    assert "ExecStart=/bin/systemctl poweroff\n" in unit
    assert not Path(wanted).exists(), "it is the host's own"
    hosts.run(0, "touch", "/var/tmp/go")
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))


@needs_hosts
def test_storage_that_cannot_be_mounted_ends_the_machine_with_a_clear_word(
    hosts: Hosts, start: Start, tmp_path: Path
) -> None:
    storage = Storage(path="/mnt/none", export="nowhere", fstype="ext4", options="ro")
    start("#!/bin/sh\ntouch /never", tries=2, storage=storage)
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert "storage: cannot mount nowhere on /mnt/none: " in hosts.console(0)
    assert hosts.power(0)


@needs_hosts
def test_storage_is_mounted_before_the_node_starts(hosts: Hosts, start: Start) -> None:
    storage = Storage(path="/mnt/tank", export="none", fstype="tmpfs", options="mode=1777")
    start("#!/bin/sh\nmountpoint /mnt/tank; touch /mnt/tank/x && echo written", storage=storage)
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert "/mnt/tank is a mountpoint\nwritten" in hosts.console(0)


@needs_hosts
def test_a_lease_that_nobody_renews_ends_the_machine(hosts: Hosts, start: Start) -> None:
    """Python hangs, and takes no signal: the watchdog is another process, and root's."""
    begun = time.monotonic()
    start(
        "#!/bin/sh\ntrap '' TERM; while :; do sleep 1; done",
        program=replace(PROGRAM, dead_man_s=2),
    )
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert time.monotonic() - begun > 2
    assert "dead man: nobody has renewed the lease of dep-w1-g3 for 2 s" in hosts.console(0)
    assert hosts.power(0)


@needs_hosts
def test_a_renewed_lease_keeps_the_machine(hosts: Hosts, start: Start) -> None:
    begun = time.monotonic()
    start(
        "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9 10; do touch /run/scsched/lease; sleep 0.5; done",
        program=replace(PROGRAM, dead_man_s=2),
    )
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert time.monotonic() - begun > 5
    assert "dead man" not in hosts.console(0)
    assert "ended with 0" in hosts.console(0)


@needs_hosts
def test_the_watchdog_is_the_last_that_memory_is_taken_from(hosts: Hosts, start: Start) -> None:
    asked = "echo -1000 >/proc/self/oom_score_adj"
    if subprocess.run(["sh", "-c", asked], capture_output=True, check=False).returncode:
        pytest.skip("this root may not spare a process from the kernel's choice")
    start("#!/bin/sh\ncat /proc/[0-9]*/oom_score_adj")
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))
    assert {"-1000", "0"} <= set(hosts.console(0).split())


@needs_hosts
def test_a_second_start_leaves_the_machine_on(hosts: Hosts, start: Start) -> None:
    start("#!/bin/sh\nuntil [ -e /var/tmp/go ]; do sleep 0.1; done")
    wait_until(lambda: "start of" in hosts.console(0))
    again = hosts.run(0, "sh", str(hosts.folder(0) / "start.sh"))
    assert (again.returncode, again.stdout) == (0, "scsched: was started before\n")
    assert hosts.is_up(0)
    hosts.run(0, "touch", "/var/tmp/go")
    wait_until(lambda: not hosts.is_up(0), lambda: hosts.console(0))


JOB = replace(PROGRAM, owns_machine=False, dead_man_s=2, notice=NoticeSource.SIGNAL)


def job(tmp_path: Path, node: str) -> "subprocess.Popen[str]":
    """The script as a batch system starts it: as the user, on a machine that goes on."""
    python, main = tmp_path / "python", tmp_path / "node"
    main.write_text(node)
    sweeps = f'case $* in *cluster.leftovers*) exec {sys.executable} "$@" ;; esac'
    python.write_text(f'#!/bin/sh\n{sweeps}\nexec {main} "$@"\n')
    for script in (python, main):
        script.chmod(0o755)
    scratch = tmp_path / "it's scratch"
    program = replace(JOB, python=str(python), scratch=str(scratch))
    (tmp_path / "job.sh").write_text(bootstrap([request(1)], program))
    return subprocess.Popen(
        ["sh", tmp_path / "job.sh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={
            "PATH": "/usr/bin:/bin",
            "SLURM_JOB_ID": "7",
            "LD_LIBRARY_PATH": "/a b",
            "CUDA_VISIBLE_DEVICES": "3,5",
        },
        text=True,
    )


def test_a_job_runs_as_its_user_and_cleans_up(tmp_path: Path) -> None:
    values = '"${SLURM_JOB_ID:-none}" "$LD_LIBRARY_PATH" "$CUDA_VISIBLE_DEVICES" "$5"'
    started = job(tmp_path, f"#!/bin/sh\necho {values}")
    said, _ = started.communicate(timeout=20)
    directory = tmp_path / "it's scratch" / f"scsched-{os.getuid()}" / "dep-w1-g3-1"
    assert f"none /a b 3,5 {directory}/gang.json" in said
    assert started.returncode == 0
    assert not directory.exists()


def test_a_job_without_a_lease_ends_with_all_that_its_node_started(tmp_path: Path) -> None:
    started = job(tmp_path, "#!/bin/sh\ntrap '' TERM\nsetsid sleep 611 &\nsleep 611")
    said, _ = started.communicate(timeout=20)
    assert "dead man: nobody has renewed" in said
    assert started.returncode != 0
    left = subprocess.run(["pgrep", "-f", "sleep 611"], capture_output=True, check=False)
    assert left.stdout == b""


def test_a_job_that_is_told_to_end_tells_its_node(tmp_path: Path) -> None:
    started = job(
        tmp_path, "#!/bin/sh\ntrap 'echo heard; exit 3' TERM\necho on\nwhile :; do sleep 0.1; done"
    )
    assert started.stdout is not None
    assert started.stdout.readline().startswith("scsched: start")
    assert started.stdout.readline() == "on\n"
    started.terminate()
    said, _ = started.communicate(timeout=20)
    assert "heard" in said
    assert started.returncode == 3


def test_python_is_there() -> None:
    """The node that a program starts is this very package."""
    asked = [sys.executable, "-I", "-m", "scsched.cluster.node", "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    assert "--gang" in done.stdout
