"""Alarms that ring at an instant, and vigils that keep an event loop awake and come to an end."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop

from isochrone.units import MILLISECOND, SECOND
from isochrone_gateway.clock import Alarm, Vigil

LONG_NS = 3600 * SECOND


class HandTurnedLoop(asyncio.AbstractEventLoop):
    """An event loop that calls what is to be called soon when the test turns it."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, callback, *args, context=None):  # noqa: ANN001, ANN002, ANN201
        del context
        self.soon.append(lambda: callback(*args))

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for call in due:
            call()

    @property
    def is_awake(self) -> bool:
        """Whether a real loop would look instead of wait."""
        return bool(self.soon)


@pytest.fixture
def loop() -> HandTurnedLoop:
    return HandTurnedLoop()


def test_a_vigil_lasts_until_its_instant_and_no_longer(loop: HandTurnedLoop) -> None:
    until = time.monotonic_ns() + 20 * MILLISECOND
    Vigil(loop).keep(until)
    assert loop.is_awake
    while loop.is_awake:
        loop.turn()
    assert time.monotonic_ns() >= until


def test_a_vigil_that_is_over_is_not_kept(loop: HandTurnedLoop) -> None:
    Vigil(loop).keep(time.monotonic_ns() - 1)
    loop.turn()
    assert not loop.is_awake


def test_a_vigil_ends_when_it_is_told_to_and_can_begin_again(loop: HandTurnedLoop) -> None:
    vigil = Vigil(loop)
    for _ in range(2):
        vigil.keep(time.monotonic_ns() + LONG_NS)
        for _ in range(3):
            loop.turn()
        assert loop.is_awake
        vigil.end()
        loop.turn()
        assert not loop.is_awake


def test_a_vigil_is_one_call_however_often_it_is_kept(loop: HandTurnedLoop) -> None:
    vigil = Vigil(loop)
    for _ in range(3):
        vigil.keep(time.monotonic_ns() + LONG_NS)
        assert len(loop.soon) == 1
        loop.turn()
        assert len(loop.soon) == 1


def test_a_shorter_vigil_does_not_cut_a_longer_one(loop: HandTurnedLoop) -> None:
    vigil = Vigil(loop)
    vigil.keep(time.monotonic_ns() + LONG_NS)
    vigil.keep(time.monotonic_ns() - 1)
    for _ in range(3):
        loop.turn()
    assert loop.is_awake


class Bell:
    """An alarm on a real loop, and when it rang."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.rang_at: list[int] = []
        self.alarm = Alarm(self.loop, self._ring)

    def _ring(self) -> None:
        self.rang_at.append(time.monotonic_ns())
        self.loop.stop()

    def wait(self) -> int:
        """Run the loop until the alarm rings, and return when it did."""
        self.loop.run_forever()
        return self.rang_at[-1]

    def close(self) -> None:
        self.alarm.close()
        self.loop.close()


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


def test_an_alarm_rings_once_at_its_instant_and_at_once_when_that_has_passed(bell: Bell) -> None:
    at = time.monotonic_ns() + 20 * MILLISECOND
    bell.alarm.set(at)
    assert bell.wait() >= at
    bell.alarm.set(at)
    bell.wait()
    assert len(bell.rang_at) == 2


def test_the_last_instant_that_was_set_counts(bell: Bell) -> None:
    bell.alarm.set(time.monotonic_ns() + LONG_NS)
    bell.alarm.set(0)
    bell.wait()
    bell.alarm.set(0)
    at = time.monotonic_ns() + 20 * MILLISECOND
    bell.alarm.set(at)
    assert bell.wait() >= at
    assert len(bell.rang_at) == 2
