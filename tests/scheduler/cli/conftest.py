from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer, peer


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment of its own: no configuration, no broker."""
    for name in ("SCSCHED_SOCKET", "SCSCHED_CONFIG", "NO_COLOR", "COLUMNS", "_SCSCHED_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SCSCHED_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path


@pytest.fixture
def broker(state_dir: Path) -> Iterator[Peer]:
    """A peer that answers every question with the literal answers."""
    with peer(state_dir / "api.sock") as found:
        found.answers = {
            "GET /v1/ping": answers.PING,
            "GET /v1/workflows": answers.WORKFLOWS,
            "GET /v1/workflows/42": answers.WORKFLOW,
            "GET /v1/steps/42.311": answers.STEP_ANSWER,
            "GET /v1/select": answers.SELECT,
            "GET /v1/events": answers.EVENTS,
            "POST /v1/actions": answers.ACTIONS,
            "POST /v1/workflows": (201, answers.SUBMITTED),
            "GET /v1/hist": answers.HIST,
            "GET /v1/nodes": answers.NODES,
            "GET /v1/receipt/42": answers.RECEIPT,
            "GET /v1/config": answers.CONFIG,
        }
        yield found
