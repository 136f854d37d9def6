"""What a commanding gateway may ask of an executor, and what it hears."""

import time
from pathlib import Path

import pytest

from isochrone.catalog import Datatype, TensorSpec
from isochrone.execution import ActionStatus
from isochrone.protocol.messages import Ping, Pong
from isochrone.units import GIB, MIB, MILLISECOND, SECOND
from isochrone_executor.backends.synthetic import make_synthetic_artifact, synthetic_answer
from isochrone_executor.testing import (
    Dial,
    Gateway,
    StartExecutor,
    answers_to,
    make_variant,
    rows_of,
)
from isochrone_executor.window import EARLY_WAIT_NS_MAX


def test_hello_says_who_runs_what(start_executor: StartExecutor, dial: Dial) -> None:
    hello = dial(start_executor(memory_bytes=2 * GIB)).greet()
    assert (hello.worker, hello.group, hello.pool) == ("w1", "g1", "p1")
    assert "synthetic" in hello.backends
    assert hello.memory_bytes == 2 * GIB
    assert hello.resident == ()
    assert abs(time.monotonic_ns() - hello.now) < 60 * SECOND


def test_a_loaded_variant_answers_each_row(gateway: Gateway, store: Path) -> None:
    loaded = gateway.load(make_variant(store))
    assert ActionStatus.OK is loaded.status
    assert loaded.end - loaded.begin == loaded.duration_ns >= MILLISECOND
    payload = rows_of(7)
    result, answer = gateway.infer(payload)
    assert ActionStatus.OK is result.status
    assert result.received <= result.begin < result.end
    assert result.end - result.begin == result.duration_ns >= MILLISECOND
    assert answers_to(payload) == answer


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_a_batch_may_hold_fewer_rows_than_its_size(
    gateway: Gateway, store: Path, batch_size: int, rows: int
) -> None:
    gateway.load(make_variant(store))
    for first in (3, 50):  # the second batch finds the first one's rows in the padding
        payload = rows_of(*range(first, first + rows))
        result, answer = gateway.infer(payload, batch_size=batch_size, rows=rows)
        assert ActionStatus.OK is result.status
        assert answers_to(payload) == answer


def test_actions_sent_ahead_run_in_order(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    payloads = [rows_of(seed) for seed in range(20)]
    actions = [gateway.begin_infer(payload) for payload in payloads]
    end = 0
    for action, payload in zip(actions, payloads, strict=True):
        result, answer = gateway.hear_answer(action)
        assert answers_to(payload) == answer
        assert end <= result.begin
        end = result.end


def test_payloads_larger_than_any_buffer_arrive_whole(gateway: Gateway, store: Path) -> None:
    inputs = (
        TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 1 << 20)),
        TensorSpec(name="scale", datatype=Datatype.FP32, shape=(-1,)),
    )
    outputs = (
        TensorSpec(name="mask", datatype=Datatype.UINT8, shape=(-1, 1 << 20)),
        TensorSpec(name="score", datatype=Datatype.FP64, shape=(-1, 2)),
    )
    sha256 = make_synthetic_artifact(
        store, model="ns/m", inputs=inputs, outputs=outputs, batch_ns={4: MILLISECOND}, load_ns=0
    )
    gateway.load(sha256, batch_sizes=(4,))
    images = [bytes([seed]) * (1 << 20) for seed in (1, 2, 3)]
    scales = [bytes([seed]) * 4 for seed in (4, 5, 6)]
    _, answer = gateway.infer(b"".join(images + scales), batch_size=4, rows=3)
    rows = [synthetic_answer(row, outputs) for row in zip(images, scales, strict=True)]
    assert b"".join([*(row[0] for row in rows), *(row[1] for row in rows)]) == answer


def test_too_late_is_refused_and_nothing_runs(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    result, answer = gateway.infer(rows_of(1), window=(0, time.monotonic_ns() - 1))
    assert ActionStatus.TOO_LATE is result.status
    assert (result.begin, result.end, result.duration_ns, answer) == (0, 0, 0, b"")
    payload = rows_of(2)
    assert answers_to(payload) == gateway.infer(payload)[1]


def test_an_action_slightly_early_waits_for_its_window(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    is_early = False
    while not is_early:  # on a busy machine, the window may open while the action is on its way
        earliest = time.monotonic_ns() + EARLY_WAIT_NS_MAX
        result, _ = gateway.infer(rows_of(1), window=(earliest, earliest + SECOND * 60))
        assert ActionStatus.OK is result.status
        assert earliest <= result.begin
        is_early = result.received < earliest


def test_an_action_much_too_early_is_refused(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    window = (time.monotonic_ns() + 60 * SECOND, time.monotonic_ns() + 61 * SECOND)
    result, _ = gateway.infer(rows_of(1), window=window)
    assert ActionStatus.TOO_EARLY is result.status
    assert ActionStatus.TOO_EARLY is gateway.unload(window=window).status
    again = gateway.load(make_variant(store, seed=1), variant="ns/w", window=window)
    assert ActionStatus.TOO_EARLY is again.status


def test_a_load_that_is_too_late_is_not_done(gateway: Gateway, store: Path) -> None:
    result = gateway.load(make_variant(store), window=(0, time.monotonic_ns() - 1))
    assert ActionStatus.TOO_LATE is result.status
    assert ActionStatus.WEIGHTS_MISSING is gateway.unload().status


def test_what_is_not_loaded_cannot_run(gateway: Gateway) -> None:
    result, _ = gateway.infer(rows_of(1), variant="ns/other")
    assert ActionStatus.WEIGHTS_MISSING is result.status
    assert "ns/other" in result.detail


def test_an_unloaded_variant_cannot_run(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    assert ActionStatus.OK is gateway.unload().status
    assert ActionStatus.WEIGHTS_MISSING is gateway.infer(rows_of(1))[0].status
    assert ActionStatus.OK is gateway.load(make_variant(store)).status


@pytest.mark.parametrize(
    ("size", "batch_size", "rows", "says"),
    [
        (255, 1, 1, "255 bytes"),
        (0, 1, 1, "0 bytes"),
        (512, 1, 1, "512 bytes"),
        (512, 1, 2, "2 rows"),
        (0, 1, 0, "0 rows"),
        (256, 1, -1, "-1 rows"),
        (256, 2, 1, "batch size 2"),
    ],
)
def test_input_that_does_not_fit_is_refused_and_skipped(
    gateway: Gateway,
    store: Path,
    size: int,
    batch_size: int,
    rows: int,
    says: str,
) -> None:
    gateway.load(make_variant(store))
    result, _ = gateway.infer(bytes(size), batch_size=batch_size, rows=rows)
    assert ActionStatus.BAD_INPUT is result.status
    assert says in result.detail
    payload = rows_of(9)
    assert answers_to(payload) == gateway.infer(payload)[1]


def test_memory_is_counted_in_pages_and_never_overcommitted(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    gateway = dial(start_executor(memory_bytes=64 * MIB))
    gateway.greet()
    three_pages = make_variant(store, weights_bytes=40 * MIB)
    assert ActionStatus.OK is gateway.load(three_pages, variant="ns/a").status
    full = gateway.load(three_pages, variant="ns/b")
    assert ActionStatus.NO_PAGES is full.status
    assert "1 pages" in full.detail
    assert ActionStatus.OK is gateway.load(make_variant(store), variant="ns/c").status
    none_left = gateway.load(make_variant(store), variant="ns/d")
    assert (none_left.status, none_left.detail) == (ActionStatus.NO_PAGES, "no page is free")
    assert ActionStatus.OK is gateway.unload("ns/a").status
    assert ActionStatus.OK is gateway.load(three_pages, variant="ns/b").status


def test_a_damaged_artifact_is_refused(gateway: Gateway, store: Path) -> None:
    sha256 = make_variant(store)
    (store / "variants" / sha256 / "weights.bin").write_bytes(b"ns/m synthetiC\n")
    result = gateway.load(sha256)
    assert ActionStatus.BAD_ARTIFACT is result.status
    assert "weights.bin" in result.detail


def test_an_artifact_that_is_not_there_is_refused(gateway: Gateway, store: Path) -> None:
    make_variant(store)
    for sha256 in ("0" * 64, "../../etc"):
        assert ActionStatus.BAD_ARTIFACT is gateway.load(sha256).status


def test_an_artifact_of_another_backend_is_refused(gateway: Gateway, store: Path) -> None:
    result = gateway.load(make_variant(store), backend="openvino")
    assert ActionStatus.BAD_ARTIFACT is result.status
    assert "synthetic" in result.detail


def test_batch_sizes_that_were_not_built_are_refused(gateway: Gateway, store: Path) -> None:
    for batch_sizes in ((1, 2), ()):
        result = gateway.load(make_variant(store), batch_sizes=batch_sizes)
        assert ActionStatus.BAD_ARTIFACT is result.status


def test_a_variant_may_be_loaded_again_in_the_same_form_only(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    assert ActionStatus.OK is gateway.load(make_variant(store)).status
    other = gateway.load(make_variant(store, seed=1))
    assert ActionStatus.ERROR is other.status
    assert "unload it first" in other.detail


def test_a_load_overlaps_with_inference(gateway: Gateway, store: Path) -> None:
    gateway.load(make_variant(store))
    slow = make_variant(store, load_ns=3 * SECOND, architecture="slow")
    load = gateway.begin_load(slow, variant="ns/slow")
    twice = gateway.begin_load(slow, variant="ns/slow")
    payload = rows_of(5)
    infer = gateway.begin_infer(payload)
    refused = gateway.hear_result()
    assert (twice, ActionStatus.ERROR) == (refused.action, refused.status)
    result, answer = gateway.hear_answer(infer)
    assert answers_to(payload) == answer
    loaded = gateway.hear_result()
    assert (load, ActionStatus.OK) == (loaded.action, loaded.status)
    assert loaded.begin < result.end < loaded.end


def test_a_ping_is_answered_with_the_executors_clock(gateway: Gateway) -> None:
    gateway.say(Ping(sent=42))
    pong = gateway.hear().message
    assert isinstance(pong, Pong)
    assert pong.sent == 42
    assert pong.now <= time.monotonic_ns()
