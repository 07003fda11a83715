"""A real Slurm on this machine: two nodes, a munge of its own, no systemd; gone without a trace.

    Box(directory).start() ─► munged ─► slurmctld ─► slurmd n1, slurmd n2
    partitions: normal (tier 10), spot (tier 1: normal takes it back, after `grace_s`), down, short

Both nodes are this machine, so what runs on them shares its processes and files. Needs root: jobs
run as their owners.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "squeue",
    "scancel",
    "scontrol",
    "setpriv",
)
_ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UP_S = 60.0

_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,default_queue_depth=500,bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MaxJobCount=20000
MinJobAge={min_job_age_s}
KillWait={kill_wait_s}
CompleteWait=0
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs={cpus} RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=4000
PartitionName=normal Nodes=n[1-2] Default=YES State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes=n[1-2] State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=down Nodes=n[1-2] State=DOWN
PartitionName=short Nodes=n[1-2] State=UP MaxTime=1
"""


@dataclass(kw_only=True)
class Box:
    """Start it with `running`; `directory` may be anywhere, paths of sockets stay short."""

    cpus: int = 4
    """Of each node."""
    grace_s: int = 3
    """From notice to the end, on the partition `spot`."""
    kill_wait_s: int = 1
    min_job_age_s: int = 300
    """How long ended jobs stay in squeue."""
    folder: Path = field(init=False)
    _mark: str = field(init=False)
    _daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    """In the order of their start."""

    def __post_init__(self) -> None:
        self._mark = f"scsched-test-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = Path(mkdtemp(prefix="scsched-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)

    @property
    def conf(self) -> Path:
        """What SLURM_CONF is to say."""
        return self.folder / "slurm.conf"

    @property
    def environ(self) -> dict[str, str]:
        """For commands by hand."""
        path = f"{os.environ.get('PATH', '')}:{_ADMIN_PATH}"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.conf)}

    @property
    def controller(self) -> int:
        """The pid of slurmctld."""
        return self._daemons["slurmctld"].pid

    def run(self, *argv: str, check: bool = True) -> str:
        """The output of a command, e.g. `run("squeue", "--noheader")`."""
        done = subprocess.run(
            argv, env=self.environ, capture_output=True, text=True, timeout=30, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{argv}: {done.returncode}: {done.stderr}{self.log()}")
        return done.stdout

    def log(self) -> str:
        """The last lines of the controller."""
        with suppress(OSError):
            return "\n".join((self.folder / "slurmctld.log").read_text().splitlines()[-20:])
        return ""

    def start(self) -> None:
        """Returns when both nodes take jobs."""
        self._write()
        self._begin("munged", "munged", "-F", "--force", *self._munge_paths())
        wait_until((self.folder / "munge.socket").exists, 20.0, "munged makes its socket")
        self._begin("slurmctld", "slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._begin(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        wait_until(self._takes_jobs, _UP_S, "both nodes are idle", self.log)

    def stop(self) -> None:
        """End all jobs, then the daemons, then whatever of them is left."""
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            self.cancel_all()
        daemons = list(reversed(self._daemons.values()))
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10.0)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        wait_until(self._kill_left, 10.0, "every process of the cluster is gone")
        shutil.rmtree(self.folder, ignore_errors=True)

    def cancel_all(self) -> None:
        """Returns when no job runs or waits."""
        self.run("scancel", "--signal=HUP", "--state=RUNNING", check=False)
        for partition in ("normal", "spot", "down", "short"):
            self.run("scancel", f"--partition={partition}", check=False)
        with suppress(TimeoutError):
            wait_until(lambda: not self.run("squeue", "--noheader"), 20.0, "the queue is empty")

    def processes(self) -> list[int]:
        """Everything that this cluster started and that lives, but for the daemons themselves."""
        ours = {daemon.pid for daemon in self._daemons.values()}
        marks = (f"SLURM_CLUSTER_NAME={self._mark}".encode(), f"SCSCHED_BOX={self._mark}".encode())
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in ours:
                continue
            with suppress(OSError):
                if not set(marks).isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]

    def _kill_left(self) -> bool:
        left = self.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def _write(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        port, *ports = _free_ports(3)
        text = _CONF.format(
            cluster=self._mark,
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            port=port,
            ports=ports,
            cpus=self.cpus,
            grace_s=self.grace_s,
            kill_wait_s=self.kill_wait_s,
            min_job_age_s=self.min_job_age_s,
        )
        self.conf.write_text(text)

    def _munge_paths(self) -> list[str]:
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        names["seed-file"] = "seed"
        return [f"--{option}={self.folder}/munge.{end}" for option, end in names.items()]

    def _begin(self, name: str, *argv: str) -> None:
        """A daemon that ends with us, should we be killed."""
        with (self.folder / f"{name}.out").open("wb") as out:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *argv],
                env={"PATH": _ADMIN_PATH, "SLURM_CONF": str(self.conf), "SCSCHED_BOX": self._mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _takes_jobs(self) -> bool:
        states = self.run("sinfo", "--noheader", "-N", "-p", "normal", "-o", "%T", check=False)
        return states.split() == ["idle", "idle"]


def missing() -> str:
    """Why no Slurm can be started here; empty: it can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_ADMIN_PATH) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


@contextmanager
def running(cpus: int = 4, grace_s: int = 3, kill_wait_s: int = 1) -> Iterator[Box]:
    """A Slurm for as long as the context lasts; see `Box`."""
    box = Box(cpus=cpus, grace_s=grace_s, kill_wait_s=kill_wait_s)
    try:
        box.start()
        yield box
    finally:
        box.stop()


def wait_until(
    done: Callable[[], object],
    timeout_s: float,
    what: str,
    tell: Callable[[], object] = lambda: "",
) -> None:
    """:raises TimeoutError: it has not come true in time; says what `tell` says."""
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s} s in vain until {what}\n{tell()}")
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
