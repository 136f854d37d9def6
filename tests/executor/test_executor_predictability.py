"""What keeps an executor steady: garbage is collected between actions, and nothing is missed."""

import gc
import os
import weakref
from collections.abc import Iterator

import pytest

from isochrone.errors import SetupError
from isochrone_executor.predictability import Collector, limit_threads, pin


class Node:
    """Part of a reference cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a collector, with the interpreter's own collection off until the test is over."""
    gc.disable()
    yield Collector()
    gc.unfreeze()
    gc.enable()


def test_a_collection_is_due_once_something_was_done(collector: Collector) -> None:
    due = [collector.is_due]
    collector.acted()
    due.append(collector.is_due)
    collector.idle()
    due.append(collector.is_due)
    assert due == [False, True, False]


def test_what_a_load_made_is_frozen_until_an_unload(collector: Collector) -> None:
    collector.loaded()
    assert gc.get_freeze_count() > 0
    node = weakref.ref(Node())
    collector.unloaded()
    assert gc.get_freeze_count() == 0
    assert collector.is_due
    assert node() is not None
    collector.idle()
    assert node() is None


def test_garbage_is_collected_even_when_no_moment_is_idle(collector: Collector) -> None:
    node = weakref.ref(Node())
    for _ in range(Collector.YOUNG_EVERY - 1):
        collector.acted()
    assert node() is not None
    collector.acted()
    assert node() is None


def test_engines_are_told_how_many_threads_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    for variable in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        monkeypatch.setenv(variable, "64")
    limit_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_only_cores_that_the_process_has_can_be_pinned_to() -> None:
    offered = os.sched_getaffinity(0)
    pin(sorted(offered))
    with pytest.raises(SetupError, match="not among the CPUs"):
        pin([max(offered) + 1])
    assert os.sched_getaffinity(0) == offered
