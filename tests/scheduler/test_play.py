"""The grammar of --play-spot."""

import pytest

from scsched.scheduler.play import Interruption, parse
from scsched.steps.errors import UsageError


def test_seconds_and_iterations_notices_and_kills() -> None:
    assert parse("90s, 436@it4:notice=30 ,12.5s:kill1") == (
        Interruption(at_s=90.0, step=None, iteration=None, notice_s=120.0, one=False),
        Interruption(at_s=None, step="436", iteration=4, notice_s=30.0, one=False),
        Interruption(at_s=12.5, step=None, iteration=None, notice_s=None, one=True),
    )


@pytest.mark.parametrize(
    "text", ["soon", "90", "90s:notice", "436@4", "90s:notice=121", "1s:kill2", "s:kill", "٣s"]
)
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--play-spot"):
        parse(text)


def test_an_entry_is_due_when_its_step_has_come_so_far() -> None:
    (entry,) = parse("436@it4:kill")
    assert not entry.due(elapsed_s=1e6, iterations={"98": 9})
    assert not entry.due(elapsed_s=1e6, iterations={"436": 3})
    assert entry.due(elapsed_s=0.0, iterations={"436": 5})


def test_an_entry_is_due_when_its_time_has_come() -> None:
    (entry,) = parse("90s")
    assert not entry.due(elapsed_s=89.9, iterations={})
    assert entry.due(elapsed_s=90.0, iterations={})
