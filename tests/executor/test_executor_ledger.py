"""The page ledger: pages are conserved, and what does not fit is not charged."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.execution import ActionStatus
from isochrone_executor.ledger import PAGE_BYTES, Ledger, pages_of
from isochrone_executor.window import EARLY_WAIT_NS_MAX, judge_window

NAMES = st.sampled_from("abcde")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    memory=st.integers(0, 20 * PAGE_BYTES),
    steps=st.lists(st.tuples(NAMES, st.integers(0, 8 * PAGE_BYTES)), max_size=30),
)
def test_free_and_charged_pages_sum_to_the_total(memory: int, steps: list[tuple[str, int]]) -> None:
    ledger = Ledger(memory)
    assert memory // PAGE_BYTES == ledger.pages_total
    for name, size in steps:
        free = ledger.pages_free
        if name in ledger.charges:
            expected = ledger.charges[name]
            assert expected == ledger.release(name)
            assert free + expected == ledger.pages_free
        else:
            fits = pages_of(size) <= free
            assert fits == ledger.fits(size) == ledger.charge(name, size)
            assert free - (pages_of(size) if fits else 0) == ledger.pages_free
        assert ledger.pages_free >= 0
        assert ledger.pages_total == ledger.pages_free + sum(ledger.charges.values())


@pytest.mark.parametrize(
    ("size", "pages"),
    [(0, 1), (1, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2), (10 * PAGE_BYTES, 10)],
)
def test_a_started_page_is_a_whole_page(size: int, pages: int) -> None:
    assert pages == pages_of(size)


def test_a_variant_is_charged_once() -> None:
    ledger = Ledger(2 * PAGE_BYTES)
    ledger.charge("a", 1)
    with pytest.raises(AssertionError):
        ledger.charge("a", 1)
    with pytest.raises(KeyError):
        ledger.release("b")


@pytest.mark.parametrize(
    ("earliest", "latest", "status"),
    [
        (100, 100, ActionStatus.OK),
        (0, 99, ActionStatus.TOO_LATE),
        (100 + EARLY_WAIT_NS_MAX, 10**9, ActionStatus.OK),
        (101 + EARLY_WAIT_NS_MAX, 10**9, ActionStatus.TOO_EARLY),
    ],
)
def test_a_window_is_closed_on_both_sides(earliest: int, latest: int, status: ActionStatus) -> None:
    assert status is judge_window(earliest, latest, 100)
