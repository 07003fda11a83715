"""One peer with steps that do nothing, in a process of its own; prints its costs as JSON.

    python benchmarks/noop_peers.py dask|hyperqueue STEPS

`cpu_s` is that of this process: Dask's scheduler and client; HyperQueue's server, client and
worker, which are one process there. `outside_s` is that of its children: Dask's workers, and the
/bin/true that HyperQueue's worker starts for each task, as it runs programs only. Started by
noop_steps.py; needs nothing but the peer.
"""

import json
import resource
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from typing import Any

SLOTS = 2


def main() -> None:
    peer, steps = sys.argv[1], int(sys.argv[2])
    found = {"dask": dask, "hyperqueue": hyperqueue}[peer](steps)
    print(json.dumps(found))


def dask(steps: int) -> dict[str, object]:
    """A scheduler in this process, two worker processes of a thread each."""
    distributed = import_module("distributed")
    cluster = distributed.LocalCluster(
        n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        client.gather(client.map(_nothing, range(20), pure=False))
        began, cpu_s = time.perf_counter(), _own()
        client.gather(client.map(_nothing, range(steps), pure=False))
        wall_s, cpu_s = time.perf_counter() - began, _own() - cpu_s
    return _found("dask.distributed", version("distributed"), wall_s, cpu_s)


def hyperqueue(steps: int) -> dict[str, object]:
    """Server and worker in this process; a worker runs two tasks at a time."""
    peer: Any = import_module("hyperqueue")
    parts: Any = import_module("hyperqueue.cluster")
    with tempfile.TemporaryDirectory() as folder:
        config = parts.WorkerConfig(cores=SLOTS)
        with parts.LocalCluster(folder, config) as cluster:
            client = cluster.client()
            _run_job(peer, client, 20)
            began, cpu_s = time.perf_counter(), _own()
            _run_job(peer, client, steps)
            wall_s, cpu_s = time.perf_counter() - began, _own() - cpu_s
    return _found("HyperQueue", version("hyperqueue"), wall_s, cpu_s)


def _run_job(peer: Any, client: Any, steps: int) -> None:
    job = peer.Job()
    for _ in range(steps):
        job.program(["/bin/true"], stdout=None, stderr=None)
    client.wait_for_jobs([client.submit(job)])


def _nothing(number: int) -> int:
    return number


def _found(name: str, release: str, wall_s: float, cpu_s: float) -> dict[str, object]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    outside_s = children.ru_utime + children.ru_stime
    return {"who": f"{name} {release}", "wall_s": wall_s, "cpu_s": cpu_s, "outside_s": outside_s}


def _own() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
