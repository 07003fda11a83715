"""What a person may write for a workflow or a step."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.scheduler.selectors import Selected, select
from scsched.steps.errors import NotFound, UsageError
from tests.scheduler.world import World, step

ALICE, BO = 0, 1


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Workflows 1 and 3 are Alice's, 2 is Bo's, 4 of Alice has ended."""
    made = make_world()
    made.submit(step("2"), step("311"), tags={"sample": "b-gal"}, held=True)
    made.submit(uid=BO, username="bo", tags={"sample": "b-gal"}, held=True)
    made.submit(tags={"owner": "1-9"}, held=True)
    made.submit()
    made.person("cancel", workflow=4)
    return made


def chosen(world: World, text: str, uid: int = ALICE) -> list[Selected]:
    with world.store.read() as session:
        return select(session, text, uid)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", [(1, None)]),
        ("1.311", [(1, "311")]),
        (" 3 , 1.2 ", [(3, None), (1, "2")]),
        ("1,1,1", [(1, None)]),
        ("1-99", [(1, None), (2, None), (3, None), (4, None)]),
        ("2-3,1", [(2, None), (3, None), (1, None)]),
        ("last", [(4, None)]),
        ("last.1", [(4, "1")]),
        ("all", [(1, None), (3, None)]),
        ("@b-gal", [(1, None)]),
        ("@sample=b-gal", [(1, None)]),
        ("@owner=1-9", [(3, None)]),
    ],
)
def test_a_selector_names(world: World, text: str, expected: list[tuple[int, str | None]]) -> None:
    assert [(one.workflow, one.step) for one in chosen(world, text)] == expected


def test_words_look_at_the_own_workflows_only(world: World) -> None:
    assert chosen(world, "last", BO) == chosen(world, "all", BO) == chosen(world, "@b-gal", BO)


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "x", "1.x", "1..2", "-1", "1-", "3-1", "1-99999999", "@", "last.", "١",
     "1234567890", "1;2", "*"],
)  # fmt: skip
def test_nonsense_is_refused(world: World, text: str) -> None:
    with pytest.raises(UsageError):
        chosen(world, text)


@pytest.mark.parametrize("text", ["99", "1,99", "1.99", "@nothing", "@a-b,99", "1-2,99", "50-60"])
def test_what_is_not_there_is_said(world: World, text: str) -> None:
    with pytest.raises(NotFound):
        chosen(world, text)


def test_who_has_nothing_has_no_last_one(world: World) -> None:
    with pytest.raises(NotFound, match="no workflow yet"):
        chosen(world, "last", 77)
    with pytest.raises(NotFound):
        chosen(world, "all", 77)


@given(text=st.text(alphabet="0123456789.,-@=al st", max_size=12) | st.text(max_size=8))
def test_any_text_is_understood_or_refused(world: World, text: str) -> None:
    with suppress(UsageError, NotFound):
        assert chosen(world, text)
