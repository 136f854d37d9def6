"""How fast writes are made, when failed ones are tried again, and what counts as drift."""

import asyncio

import pytest

from isochrone.units import SECOND
from isochrone_operator.drift import covers
from isochrone_operator.json_values import Json
from isochrone_operator.pace import Backoffs, Bucket


def test_writes_are_paced() -> None:
    now_ns, slept = [0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> None:
        bucket = Bucket(rate=10, burst=2, clock=lambda: now_ns[0], sleep=sleep)
        for _ in range(4):
            await bucket.take()
        assert slept == [pytest.approx(0.1), pytest.approx(0.2)]
        now_ns[0] += 10 * SECOND
        slept.clear()
        for _ in range(2):
            await bucket.take()
        assert slept == []

    asyncio.run(run())


def test_waits_grow_up_to_a_bound() -> None:
    now_ns = [0]
    backoffs: Backoffs[str] = Backoffs(clock=lambda: now_ns[0])
    waits = []
    for _ in range(9):
        backoffs.failed("a")
        assert not backoffs.ready("a")
        waits.append(((backoffs.next_ns or 0) - now_ns[0]) // SECOND)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoffs.succeeded("a")
    assert backoffs.ready("a")
    assert backoffs.next_ns is None


@pytest.mark.parametrize(
    ("live", "wanted", "covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        ({}, {"a": {}}, True),
        ({}, {"a": []}, True),
        ({}, {"a": False}, False),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "1000m"}}, True),
        ({"requests": {"cpu": "2"}}, {"requests": {"cpu": "1000m"}}, False),
    ],
)
def test_an_object_covers_a_manifest(live: Json, wanted: Json, *, covered: bool) -> None:
    assert covers(live, wanted) is covered
