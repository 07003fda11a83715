"""The Dask worker of a node, and the Dask settings of scheduler, worker and client alike."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import dask.config
from distributed import Worker

from scsched.cluster import tls

NOTICE_TOPIC = "scsched-notice"
SETTINGS: dict[str, object] = {
    # A lost node ends its attempt at once: whether to try again is ours to decide.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    # A node that hangs with its connection open; facts of life: noticed after two to three times.
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.comm.timeouts.connect": "15s",
    "distributed.comm.timeouts.tcp": "15s",
    "distributed.comm.require-encryption": True,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


def settings() -> AbstractContextManager[object]:
    """These settings, whatever the user's own Dask configuration says."""
    context: AbstractContextManager[object] = dask.config.set(SETTINGS)
    return context


class NoWebPages:
    """Mixed into Dask's servers: they would serve pages without TLS, dashboard or not."""

    def start_http_server(self, *args: object, **kwargs: object) -> None:
        """Nothing listens."""


class NodeWorker(NoWebPages, Worker):
    """One thread, no nanny; calls `on_close` the moment it starts to close, and that never returns.

    Dask's own close would wait up to 30 s for the running task, with RELION going on.
    """

    def __init__(
        self,
        scheduler_address: str,
        *,
        name: str,
        tls_dir: Path,
        local_directory: Path,
        join_s: float,
        on_close: Callable[[str], None],
        host: str | None = None,
    ) -> None:
        """:param host: our address as others see it; None: found by Dask."""
        self._on_close = on_close
        logging.getLogger("distributed").setLevel(logging.INFO)
        super().__init__(
            scheduler_address,
            name=name,
            nthreads=1,
            memory_limit=0,
            security=tls.security(tls_dir),
            dashboard=False,
            local_directory=str(local_directory),
            death_timeout=join_s,
            host=host,
        )

    async def close(  # type: ignore[override]  # as Worker's own
        self,
        timeout: float = 30,
        executor_wait: bool = True,
        nanny: bool = True,
        reason: str = "worker-close",
    ) -> str | None:
        """End the node."""
        self._on_close(reason)
        return await super().close(timeout, executor_wait, nanny, reason)

    def announce(self, notice: dict[str, str]) -> None:
        """Tell whoever listens on the scheduler that this node will be taken back."""
        self.log_event(NOTICE_TOPIC, notice)
