"""A workflow's Dask scheduler and client, for its driver, which needs no Dask of its own.

async with start_scheduler(tls_dir) as cluster:
    ... nodes join cluster.address ...
    end = await cluster.submit_attempt("n17", as_json(spec))
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import KilledWorker

from scsched.cluster import attempt, tls
from scsched.cluster.worker import NOTICE_TOPIC, NoWebPages, settings
from scsched.steps.errors import ScschedError


class NodeLost(ScschedError):
    """The node left while it ran the attempt; nothing is known of how that ended."""

    code = "node_lost"


class _Scheduler(NoWebPages, Scheduler):
    pass


class DaskCluster:
    """What the driver may ask of its nodes. All methods belong to the event loop's thread."""

    def __init__(self, scheduler: Scheduler, client: Client) -> None:
        self._scheduler = scheduler
        self._client = client
        self._departures = _Departures()
        scheduler.add_plugin(self._departures)

    @property
    def address(self) -> str:
        """Where nodes join: tls://host:port."""
        return str(self._scheduler.address)

    def nodes_up(self) -> dict[str, str]:
        """Name to address of the nodes whose worker answers."""
        workers = self._scheduler.workers.values()
        return {str(w.name): str(w.address) for w in workers if w.status == Status.running}

    def submit_attempt(
        self, node: str, spec: Mapping[str, object]
    ) -> "asyncio.Task[dict[str, object]]":
        """Run the attempt on that node and no other; the task gives `run_attempt`'s answer.

        The task raises NodeLost when the node goes, and what `run_attempt` raises. Cancelling the
        task does not stop the attempt: `stop` does.
        """
        return asyncio.create_task(self._attempt(node, dict(spec)), name=f"attempt on {node}")

    async def stop(
        self, nodes: Sequence[str], run_token: str, *, grace_s: float, job_dir: Path | None = None
    ) -> dict[str, object]:
        """`stop_attempt` on every node of the gang that is up; its answer by node."""
        return await self.run_on(
            nodes,
            attempt.stop_attempt,
            run_token,
            grace_s,
            None if job_dir is None else str(job_dir),
            timeout_s=grace_s + 30,
        )

    async def run_on(
        self,
        nodes: Sequence[str],
        function: Callable[..., object],
        *args: object,
        timeout_s: float = 30.0,
    ) -> dict[str, object]:
        """Call `function(*args)` in the process of each of `nodes` that is up; results by node.

        A node whose call failed has its exception as result, NodeLost if it left meanwhile; one
        that is not up is left out.
        Plain functions block the node's event loop: make long ones coroutines.

        :raises TimeoutError: not all have answered within `timeout_s`.
        """
        up = self.nodes_up()
        asked = {node: self._run_on(node, up[node], function, args) for node in nodes if node in up}
        answers = await asyncio.wait_for(asyncio.gather(*asked.values()), timeout_s)
        return dict(zip(asked, answers, strict=True))

    async def _run_on(
        self, node: str, address: str, function: Callable[..., object], args: Sequence[object]
    ) -> object:
        call: Awaitable[dict[str, object]] = self._client.run(
            function, *args, workers=[address], on_error="return"
        )
        try:
            answer: dict[str, object] = await self._unless_gone(address, call)
        except _Gone:
            return NodeLost(f"node {node} was lost")
        return answer.get(address)

    def on_event(self, topic: str, callback: Callable[[dict[str, object]], None]) -> None:
        """Call `callback` with each event that nodes log under `topic` from now on."""

        def handler(event: tuple[float, dict[str, object]]) -> None:
            callback(event[1])

        self._client.subscribe_topic(topic, handler)  # type: ignore[no-untyped-call]

    def on_notice(self, callback: Callable[[dict[str, object]], None]) -> None:
        """Call `callback` with {"node", "deadline"} of a node to be taken back; it may repeat."""
        self.on_event(NOTICE_TOPIC, callback)

    async def dismiss(self, nodes: Sequence[str]) -> None:
        """Have these nodes end themselves, with all that runs on them."""
        up = self.nodes_up()
        addresses = [up[node] for node in nodes if node in up]
        if addresses:
            await self._scheduler.retire_workers(workers=addresses, close_workers=True)

    async def forget(self, nodes: Sequence[str]) -> None:
        """These are gone: whatever waits for an answer of theirs ends as NodeLost, now.

        Dask itself would give a machine that vanished its 15 s.
        """
        up = self.nodes_up()
        for address in [up[node] for node in nodes if node in up]:
            await self._scheduler.remove_worker(address, stimulus_id="scsched-gone")

    async def _attempt(self, node: str, spec: dict[str, object]) -> dict[str, object]:
        lost = NodeLost(f"node {node} was lost")
        address = self.nodes_up().get(node)
        if address is None:
            raise lost
        future = self._client.submit(
            attempt.run_attempt,
            spec,
            key=f"run_attempt-{spec.get('run_token')}",
            workers=[node],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        try:
            result: dict[str, Any] = await self._unless_gone(address, future)
        except KilledWorker as exc:
            raise lost from exc
        except _Gone:
            raise lost from None
        finally:
            future.release()  # type: ignore[no-untyped-call]
        return result

    async def _unless_gone(self, address: str, future: Any) -> Any:
        """The future's result; Dask would wait for ever for a worker that left in good order."""
        gone = self._departures.expect(self._scheduler, address)
        result = asyncio.ensure_future(future)
        await asyncio.wait({gone, result}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        result.cancel()
        raise _Gone


class _Gone(Exception):
    pass


class _Departures(SchedulerPlugin):
    """Futures that are done when a worker leaves the scheduler, in whatever way."""

    def __init__(self) -> None:
        self._expected: dict[str, asyncio.Future[None]] = {}

    def expect(self, scheduler: Scheduler, address: str) -> "asyncio.Future[None]":
        """Done already for one that has left before anybody asked."""
        if address not in scheduler.workers:
            left = asyncio.get_running_loop().create_future()
            left.set_result(None)
            return left
        if address not in self._expected:
            self._expected[address] = asyncio.get_running_loop().create_future()
        return self._expected[address]

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Called by the scheduler, in its event loop, which is ours too."""
        expected = self._expected.pop(worker, None)
        if expected is not None and not expected.done():
            expected.set_result(None)


@asynccontextmanager
async def start_scheduler(tls_dir: Path, *, host: str = "127.0.0.1") -> AsyncIterator[DaskCluster]:
    """A scheduler on a free port of `host` and a client of it, with the keys of `tls_dir`.

    Make the keys first: `tls.make`. On leaving, nodes that are still up end themselves.
    """
    security = tls.security(tls_dir)
    with settings():
        async with (
            _Scheduler(host=host, port=0, security=security, dashboard=False) as scheduler,
            Client(  # type: ignore[no-untyped-call]
                scheduler.address, security=security, asynchronous=True, set_as_default=False
            ) as client,
        ):
            yield DaskCluster(scheduler, client)
