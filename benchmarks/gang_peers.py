"""One start of a gang on a box that runs already: `gang_peers.py ours|stock BOX SHARED COUNT`.

A process of its own for each, as Dask's settings and AWS sessions are the process's. Prints one
line of JSON: who it was, and the seconds from the start of the clock to each mark. Imports are done
before.
"""

import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import box_gang
from tests.cloudbox.client import Box

KIND = "t3.small"
ANSWER_S = 240


@dataclass(slots=True)
class Marks:
    """Seconds since the start of the clock, which is when this is made."""

    began: float = field(default_factory=time.perf_counter)
    scheduler_s: float = 0.0
    """The Dask scheduler takes connections."""
    workers_s: float = 0.0
    """All workers have answered a call."""
    gang_s: float = 0.0
    """A program has run under MPI over all of them; 0: there is no such thing."""

    def now_s(self) -> float:
        return time.perf_counter() - self.began


def main() -> None:
    peer, folder, shared, count = sys.argv[1:5]
    box = Box(Path(folder)).attach()
    peers: dict[str, Callable[[Box, Path, int], tuple[str, Marks]]] = {"ours": ours, "stock": stock}
    with box_gang.in_the_box(box):
        who, marks = peers[peer](box, Path(shared), int(count))
    print(json.dumps({"who": who, **asdict(marks)}), flush=True)


def ours(box: Box, shared: Path, count: int) -> tuple[str, Marks]:
    """Provider, bootstrap, enrolment, node, agents, and the preflight over all hosts."""
    from scsched.cluster.ec2 import workers as _  # noqa: F401 - else imported by the first launch

    async def start(keys: Path) -> Marks:
        marks, run = Marks(), f"bench-{secrets.token_hex(4)}"
        async with box_gang.workflow(box, keys, shared, python=sys.executable) as mine:
            marks.scheduler_s = marks.now_s()
            names = await mine.launch(count, KIND)
            marks.workers_s = marks.now_s()
            verdict = await mine.check(await mine.gang(names, count, run), run)
            marks.gang_s = marks.now_s()
            assert verdict.ok, verdict.reason
            assert len(verdict.nodes) == count
            await mine.end(names)
        return marks

    with tempfile.TemporaryDirectory(prefix="bench-keys-") as keys:
        return f"scsched {version('scsched')}", asyncio.run(start(Path(keys) / "tls"))


def stock(box: Box, _: Path, count: int) -> tuple[str, Marks]:
    """As documented, but for image, subnet and group, which its defaults do not find."""
    from dask_cloudprovider.aws import EC2Cluster  # type: ignore[import-untyped,unused-ignore]
    from distributed import Client

    marks: list[Marks] = []

    class Cluster(EC2Cluster):  # type: ignore[misc]
        """Notes when its scheduler's machine answers."""

        def _log(self, log: str) -> None:
            if log == "Scheduler is running":
                marks[0].scheduler_s = marks[0].now_s()

    marks.append(Marks())
    cluster = Cluster(
        n_workers=count,
        region=box.region,
        ami=box.image,
        instance_type=KIND,
        subnet_id=box.subnets[box.zones[0]],
        security_groups=[box.security_group],
        bootstrap=False,
        use_private_ip=True,
        worker_options={"nthreads": 1},
    )
    client = Client(cluster)  # type: ignore[no-untyped-call]
    client.wait_for_workers(count, timeout=ANSWER_S)
    assert len(client.run(os.getpid)) == count
    marks[0].workers_s = marks[0].now_s()
    client.close()  # type: ignore[no-untyped-call]
    cluster.close()
    return f"EC2Cluster {version('dask-cloudprovider')}", marks[0]


if __name__ == "__main__":
    main()
