"""People who submit workflows while the broker dies again and again."""

import random
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from scsched.scheduler.client import Client
from scsched.steps.errors import BrokerUnreachable, ScschedError, StoreBusy, StoreLost
from tests.faults.kill import workflows
from tests.faults.kill.journal import Journal, Kind


class People(threading.Thread):
    """Submit workflows, each under a key, and send one again until it is acknowledged."""

    def __init__(
        self, socket: Path, journal: Journal, *, live_workflows: int, requeues: float
    ) -> None:
        """:param requeues: chance, at each look, that they take the nodes from a running step."""
        super().__init__(name="people")
        self._client = Client(socket, timeout_s=15.0, attempts=1)
        self._journal = journal
        self._live_workflows = live_workflows
        self._requeues = requeues
        self._stopping = threading.Event()
        self._chance = random.Random()  # noqa: S311 - makes workflows

    def stop(self) -> None:
        """Returns when the submission under way was acknowledged, or given up unacknowledged."""
        self._stopping.set()
        self.join(timeout=60.0)
        if self.is_alive():
            raise RuntimeError("a submission hangs")

    def run(self) -> None:
        while not self._stopping.is_set():
            live = self._live()
            if live and self._chance.random() < self._requeues:
                self._requeue(self._chance.choice(live))
            if live is not None and len(live) < self._live_workflows:
                self._submit()
            self._stopping.wait(0.05)

    def _live(self) -> list[int] | None:
        with suppress(ScschedError):
            return [item["id"] for item in self._client.workflows(live=True)["items"]]
        return None

    def _submit(self) -> None:
        key = uuid.uuid4().hex
        market = "spot" if self._chance.random() < 0.5 else "on-demand"
        body = {
            "document": workflows.document(self._chance),
            "name": f"kill {key[:6]}",
            "market": market,
            "key": key,
        }
        self._journal.write(Kind.ASKED, token=key)
        while True:
            try:
                answer = self._client.submit(body)
            except StoreLost:
                self._journal.write(Kind.CUT, token=key)
            except (BrokerUnreachable, StoreBusy):
                if self._stopping.is_set():
                    return
            else:
                self._journal.write(Kind.ACKED, token=key, workflow=answer["id"] or 0)
                return
            time.sleep(0.02)

    def _requeue(self, workflow: int) -> None:
        with suppress(ScschedError):
            for step in self._client.workflow(workflow)["steps"]:
                if step["state"] == "RUNNING":
                    self._client.act("requeue", f"{workflow}.{step['id']}", reason="a test")
                    self._journal.write(Kind.ASKED_AGAIN, workflow=workflow, step=step["id"])
                    return
