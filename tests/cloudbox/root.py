"""The root of one host: an overlay over this machine's, with its own /tmp, /run, /proc and /dev.

Whatever a host writes goes to memory of its own and is gone with it. What could reach the whole
machine from inside (its disks, its clock, its power switch) is not there.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_CAPBSET_DROP = 24
DROPPED = {"CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_BOOT": 22, "CAP_SYS_TIME": 25}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
FRESH = {"tmp": 0o1777, "var/tmp": 0o1777, "run": 0o755, "dev/shm": 0o1777}
PIVOT_S = 10.0

POWER_OFF = "#!/bin/sh\nkill -TERM 1\n"
SHUTDOWN = """#!/bin/sh
for word in "$@"; do
  case "$word" in
    -c) exit 0 ;;
    +[1-9]*) (sleep $((${word#+} * 60)); kill -TERM 1) > /dev/null 2>&1 < /dev/null & exit 0 ;;
  esac
done
kill -TERM 1
"""
SYSTEMCTL = """#!/bin/sh
case " $* " in
  *" poweroff "*|*" halt "*|*" reboot "*) kill -TERM 1 ;;
  *) echo "systemctl: this machine has no systemd" >&2; exit 1 ;;
esac
"""
RESOLVE = "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n"

_libc = ctypes.CDLL(None, use_errno=True)


def make(
    directory: Path, *, binds: Sequence[str], image: str, hostname: str, address: str, key: str
) -> None:
    """Makes it and moves this process into it, for good."""
    _mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    root = _overlay(directory)
    _mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mask(root / "proc")
    _mount("sysfs", root / "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _devices(root / "dev")
    for name, mode in FRESH.items():
        _mount("tmpfs", root / name, "tmpfs", MS_NOSUID | MS_NODEV)
        (root / name).chmod(mode)
    for path in binds:
        _mount(path, root / path.lstrip("/"), flags=MS_BIND | MS_REC)
    if image:
        shutil.copytree(image, root, symlinks=True, dirs_exist_ok=True)
    _files(root, hostname=hostname, address=address, key=key)
    _enter(root)
    for number in DROPPED.values():
        _check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


def _overlay(directory: Path) -> Path:
    memory = directory / "fs"
    _mount("tmpfs", memory, "tmpfs")
    for name in ("upper", "work", "root"):
        (memory / name).mkdir()
    os.chdir(memory)  # a path with a comma in it would end the option
    options = "lowerdir=/,upperdir=upper,workdir=work"
    _mount("overlay", memory / "root", "overlay", data=options)
    return memory / "root"


def _mask(proc: Path) -> None:
    for name in ("sysrq-trigger", "kcore"):
        if (proc / name).exists():
            _mount("/dev/null", proc / name, flags=MS_BIND)
    _mount(str(proc / "sys"), proc / "sys", flags=MS_BIND)
    _mount("none", proc / "sys", flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def _devices(dev: Path) -> None:
    _mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        if Path("/dev", name).exists():
            (dev / name).touch()
            _mount(f"/dev/{name}", dev / name, flags=MS_BIND)
    _mount("devpts", dev / "pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=620,gid=5")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0"}
    links |= {"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _files(root: Path, *, hostname: str, address: str, key: str) -> None:
    for name in ("poweroff", "halt", "reboot"):
        _put(root / "usr/sbin" / name, POWER_OFF, 0o755)
    _put(root / "usr/sbin/shutdown", SHUTDOWN, 0o755)
    _put(root / "usr/bin/systemctl", SYSTEMCTL, 0o755)
    _put(root / "etc/hostname", f"{hostname}\n")
    _put(root / "etc/hosts", f"127.0.0.1 localhost\n{address} {hostname}\n")
    _put(root / "etc/resolv.conf", "")
    _put(root / "etc/nsswitch.conf", RESOLVE)
    (root / "run/sshd").mkdir(mode=0o755)
    (root / "run/lock").mkdir(mode=0o1777)
    if key:
        _put(root / "root/.ssh/authorized_keys", key, 0o600)
        (root / "root/.ssh").chmod(0o700)


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _enter(root: Path) -> None:
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True, timeout=PIVOT_S)
    os.chroot(".")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def _mount(
    source: str, target: Path, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    if not target.exists():
        target.mkdir(parents=True)
    done = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        data.encode() if data else None,
    )
    _check(done, f"mount {source} on {target}")


def _check(done: int, what: str) -> None:
    if done:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
