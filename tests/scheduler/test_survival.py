"""How likely a gang stays whole: by what was seen, and by the prior where nothing was."""

from hypothesis import given
from hypothesis import strategies as st

from scsched.scheduler.survival import Exposure, likely, survival

HOUR = 3600.0
exposures = st.builds(Exposure, st.integers(0, 50), st.floats(0, 1e4))


def test_the_formula_by_hand() -> None:
    assert survival(Exposure(), nodes=4, seconds=6 * HOUR) == 24 / 48
    assert survival(Exposure(1, 24.0), nodes=4, seconds=HOUR) == (48 / 52) ** 2


def test_without_history_a_short_iteration_fits_and_a_days_one_does_not() -> None:
    assert likely(Exposure(), nodes=4, seconds=600.0)
    assert not likely(Exposure(), nodes=4, seconds=24 * HOUR)


def test_what_was_seen_outweighs_the_prior() -> None:
    calm, stormy = Exposure(0, 1000.0), Exposure(40, 20.0)
    assert likely(calm, nodes=4, seconds=24 * HOUR)
    assert not likely(stormy, nodes=4, seconds=HOUR)


@given(seen=exposures, nodes=st.integers(1, 50), seconds=st.floats(0, 1e7))
def test_it_is_a_probability_that_falls_with_time_width_and_reclaims(
    seen: Exposure, nodes: int, seconds: float
) -> None:
    found = survival(seen, nodes=nodes, seconds=seconds)
    assert 0.0 <= found <= 1.0
    assert survival(seen, nodes=nodes + 1, seconds=seconds) <= found
    assert survival(seen, nodes=nodes, seconds=2 * seconds) <= found
    worse = Exposure(seen.reclaims + 1, seen.node_hours)
    assert survival(worse, nodes=nodes, seconds=seconds) <= found
