"""Instances of the box that really boot: their own address, root, metadata and limits."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloudbox import root
from tests.cloudbox.asking import code_of, launch, wait_until
from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import box, skip_where_hosts_cannot_boot
from tests.cloudbox.hosted import SILENCE_S, boot, listening, sh, wait_for_line

__all__ = ["box"]
SMALL = "t3.nano"
"""0.5 GiB of memory."""


def test_a_host_has_its_own_address_and_root(box: Box) -> None:
    one, two = boot(box, count=2)
    mine = Path("/etc/cloudbox-was-here")
    sh(box, one, f"echo hello > {mine}; echo hello > /tmp/file; touch /run/file /var/tmp/file")
    assert not mine.exists()
    assert sh(box, two, f"ls {mine} /tmp /run/file /var/tmp 2> /dev/null; true").count("file") == 0
    address = box.instance(one).address
    assert sh(box, one, "hostname") == f"ip-{address.replace('.', '-')}"
    assert address in sh(box, one, "ip -4 -o addr show dev eth0")
    assert sh(box, one, "ps -e | wc -l") < "9"
    assert address.startswith(box.cidr.removesuffix("0.0/16"))


def test_hosts_reach_each_other_and_this_machine_and_nothing_else(box: Box) -> None:
    one, two = boot(box, count=2)
    with listening(box, two) as port:
        address = box.instance(two).address
        assert dial(box, one, address, port) == "hello"
        with socket.create_connection((address, port), timeout=SILENCE_S) as peer:
            assert peer.recv(5) == b"hello"
    assert dial(box, one, "10.0.0.1", port) == "TimeoutError"


def dial(box: Box, instance: str, address: str, port: int) -> str:
    """The greeting heard from inside, or the name of the error."""
    program = textwrap.dedent(f"""
        import socket
        try:
            print(socket.create_connection(("{address}", {port}), timeout=1).recv(5).decode())
        except OSError as exc:
            print(type(exc).__name__)
    """)
    return box.execute(instance, sys.executable, "-c", program).stdout.strip()


def test_metadata_answers_inside_and_wants_a_token(box: Box) -> None:
    first, second = boot(box, count=2, MetadataOptions={"HttpTokens": "required"})
    url = "http://169.254.169.254/latest"
    plain = f"curl -s -o /dev/null -w '%{{http_code}}' {url}/meta-data/instance-id"
    assert sh(box, first, plain) == "401"
    token = f"$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {url}/api/token)"
    ask = f'curl -s -H "X-aws-ec2-metadata-token: {token}" {url}/meta-data'
    assert sh(box, second, f"{ask}/instance-id") == second
    assert sh(box, second, f"{ask}/ami-launch-index") == "1"
    assert sh(box, second, f"{ask}/local-ipv4") == box.instance(second).address
    box.reclaim(second, notice_s=60)
    wait_until(lambda: '"terminate"' in sh(box, second, f"{ask}/spot/instance-action"))


def test_user_data_runs_once_as_root(box: Box) -> None:
    [one] = boot(box, '#!/bin/sh\necho "I am $(id -u)" | tee -a /root/ran\nexit 3\n')
    wait_for_line(box, one, "user data ended with 3")
    assert sh(box, one, "cat /root/ran") == "I am 0"
    printed = box.ec2().get_console_output(InstanceId=one)["Output"]
    assert printed.count("I am 0") == 1


def test_a_little_cloud_config_is_understood(box: Box) -> None:
    config = textwrap.dedent("""\
        #cloud-config
        write_files:
          - {path: /root/said, content: "hi there", permissions: "0600"}
        mounts:
          - [tmpfs, /scratch, tmpfs, size=1m]
        runcmd:
          - [sh, -c, "stat -c %a /root/said > /scratch/mode"]
          - cat /root/said >> /scratch/mode
    """)
    [one] = boot(box, config)
    wait_for_line(box, one, "user data ended with 0")
    assert sh(box, one, "cat /scratch/mode") == "600\nhi there"
    assert "size=1024k" in sh(box, one, "grep /scratch /proc/mounts")


def test_a_host_has_the_memory_of_its_type(box: Box) -> None:
    [one] = boot(box, kind=SMALL)
    eat = "bytearray(700 << 20)"
    assert box.execute(one, sys.executable, "-c", eat).returncode in (-9, 137)
    assert box.execute(one, sys.executable, "-c", "bytearray(100 << 20)").returncode == 0
    assert box.instance(one).state == "running"


def test_a_host_cannot_reach_the_machine_below(box: Box) -> None:
    """By its rights: to try would set this machine's clock where they are wrong."""
    rights = "grep CapBnd /proc/self/status"
    [one] = boot(box, f"#!/bin/sh\n{rights} > /root/rights\n")
    wait_for_line(box, one, "user data ended with 0")
    for line in (sh(box, one, "cat /root/rights"), sh(box, one, rights)):
        held = int(line.split()[1], 16)
        assert held
        assert not [name for name, bit in root.DROPPED.items() if held >> bit & 1]
    assert "/proc/sys proc ro," in sh(box, one, "cat /proc/mounts")
    assert "vda" not in sh(box, one, "ls /dev")
    assert sh(box, one, "ls /sys/fs/cgroup") == ""


def test_who_has_the_key_of_its_pair_may_log_in(box: Box, tmp_path: Path) -> None:
    if absent := [one for one in ("ssh", "sshd", "ssh-keygen") if shutil.which(one) is None]:
        pytest.skip(f"no {absent[0]} here: apt-get install openssh-server openssh-client")
    pair, other = make_key(tmp_path / "pair"), make_key(tmp_path / "other")
    public = pair.with_suffix(".pub").read_bytes()
    box.ec2().import_key_pair(KeyName="lab", PublicKeyMaterial=public)
    [one] = boot(box, KeyName="lab")
    wait_for_line(box, one, "Server listening on")
    keys = "curl -s http://169.254.169.254/latest/meta-data/public-keys"
    assert (
        sh(box, one, f"{keys}/; echo; {keys}/0/openssh-key") == f"0=lab\n{public.decode().strip()}"
    )
    address = box.instance(one).address
    assert ssh(pair, address).stdout == f"ip-{address.replace('.', '-')}\n"
    assert "Permission denied (publickey)" in ssh(other, address).stderr
    listening = sh(box, one, "ss -ltnH").split()
    assert f"{address}:22" in listening
    assert "0.0.0.0:22" not in listening


def test_a_host_without_a_key_pair_lets_nobody_in(box: Box) -> None:
    [one] = boot(box)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((box.instance(one).address, 22), timeout=SILENCE_S)
    assert code_of(lambda: launch(box, KeyName="unknown")) == "InvalidKeyPair.NotFound"


def make_key(path: Path) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True, timeout=60)
    return path


def ssh(key: Path, address: str) -> "subprocess.CompletedProcess[str]":
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    words = [word for option in (*options, "IdentitiesOnly=yes") for word in ("-o", option)]
    argv = ["ssh", "-F", os.devnull, "-i", str(key), *words, f"root@{address}", "hostname"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def own_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box with a shared directory and an image of its own, in a directory with a space."""
    skip_where_hosts_cannot_boot()
    directory = tmp_path_factory.mktemp("own box")
    shared, image = directory / "shared", directory / "image"
    shared.mkdir()
    (image / "opt").mkdir(parents=True)
    (image / "opt/marker").write_text("baked")
    with Box(directory / "box", boot=True, binds=[shared], image=image, boot_s=0.3) as own:
        yield own


def test_all_hosts_see_the_shared_directory_at_the_same_path(own_box: Box) -> None:
    one, two = boot(own_box, count=2)
    shared = own_box.directory.parent / "shared"
    sh(own_box, one, f"echo seen > '{shared}/file'")
    assert sh(own_box, two, f"cat '{shared}/file' /opt/marker") == "seen\nbaked"
    assert (shared / "file").read_text() == "seen\n"


def test_an_instance_is_pending_until_it_has_booted(own_box: Box) -> None:
    [one] = launch(own_box)
    assert own_box.instance(one).state == "pending"
    wait_until(lambda: own_box.instance(one).state == "running")
