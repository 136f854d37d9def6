"""Links: greeting, epochs, takeover, gateways that leave or misbehave."""

import socket
from pathlib import Path

import pytest

from isochrone.catalog import Datatype, TensorSpec
from isochrone.execution import ActionStatus, form_of
from isochrone.protocol.framing import HEADER_BYTES_MAX, encode_frame
from isochrone.protocol.messages import PROTOCOL_VERSION, Goodbye, Hello, Ping, Welcome
from isochrone.units import SECOND
from isochrone_executor.backends.synthetic import make_synthetic_artifact
from isochrone_executor.testing import (
    ROW_IN,
    Dial,
    StartExecutor,
    answers_to,
    make_variant,
    rows_of,
)


def test_another_protocol_version_gets_goodbye(start_executor: StartExecutor, dial: Dial) -> None:
    gateway = dial(start_executor())
    gateway.hear()
    gateway.say(Welcome(version=PROTOCOL_VERSION + 1, gateway="g", epoch=1))
    assert f"version {PROTOCOL_VERSION + 1}" in gateway.hear_goodbye()


def test_actions_before_welcome_get_goodbye(start_executor: StartExecutor, dial: Dial) -> None:
    gateway = dial(start_executor())
    gateway.hear()
    gateway.socket.sendall(encode_frame(Ping(sent=0)))
    assert "Ping is not allowed" in gateway.hear_goodbye()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: executor\r\n\r\n",
        b"ISO1" + (HEADER_BYTES_MAX + 1).to_bytes(4, "little") + bytes(4),
        b"ISO1" + bytes(8),
        b"ISO1" + (3).to_bytes(4, "little") + bytes(4) + b"\xc1\xc1\xc1",
        b"ISO1" + (1).to_bytes(4, "little") + b"\xff\xff\xff\xff" + b"\x80",
    ],
    ids=["http", "long-header", "no-header", "no-msgpack", "long-payload"],
)
def test_garbage_closes_the_link_and_nothing_else(
    start_executor: StartExecutor, dial: Dial, store: Path, garbage: bytes
) -> None:
    executor = start_executor()
    other = dial(executor)
    other.greet()
    gateway = dial(executor)
    gateway.hear()
    gateway.socket.sendall(garbage)
    assert gateway.hear_goodbye()
    assert ActionStatus.OK is other.load(make_variant(store)).status


def test_garbage_from_the_commander_ends_its_command(
    dial: Dial, store: Path, start_executor: StartExecutor
) -> None:
    executor = start_executor(listen="tcp:127.0.0.1:0")
    commander = dial(executor)
    commander.greet()
    commander.load(make_variant(store))
    commander.socket.sendall(b"\0" * 64)
    assert "no Isochrone program" in commander.hear_goodbye()
    assert dial(executor).greet(epoch=1, name="another").resident == ("ns/v",)


def test_a_higher_epoch_takes_over_and_keeps_what_is_loaded(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    former = dial(executor)
    former.greet(name="gateway-a", epoch=1)
    sha256 = make_variant(store)
    former.load(sha256)
    latter = dial(executor)
    hello = latter.greet(name="gateway-b", epoch=2)
    assert hello.resident == ("ns/v",)
    assert hello.forms == (form_of(sha256, (1, 4)),)
    assert "gateway-b" in former.hear_goodbye()
    payload = rows_of(1)
    assert answers_to(payload) == latter.infer(payload)[1]


def test_a_lower_epoch_is_never_obeyed_again(start_executor: StartExecutor, dial: Dial) -> None:
    executor = start_executor()
    dial(executor).greet(name="gateway-b", epoch=5)
    executor.wait_for("commanded")
    stale = dial(executor)
    stale.greet(name="gateway-a", epoch=4)
    assert "epoch 4 is over" in stale.hear_goodbye()


def test_a_lower_epoch_is_refused_even_when_nobody_commands(
    start_executor: StartExecutor, dial: Dial
) -> None:
    executor = start_executor()
    leader = dial(executor)
    leader.greet(name="gateway-b", epoch=5)
    executor.wait_for("commanded")
    leader.close()
    executor.wait_for("link_closed")
    stale = dial(executor)
    stale.greet(name="gateway-a", epoch=4)
    assert "epoch 4 is over" in stale.hear_goodbye()


def test_one_epoch_has_one_gateway(start_executor: StartExecutor, dial: Dial, store: Path) -> None:
    executor = start_executor()
    leader = dial(executor)
    leader.greet(name="gateway-a", epoch=3)
    rival = dial(executor)
    rival.greet(name="gateway-b", epoch=3)
    assert "belongs to gateway 'gateway-a'" in rival.hear_goodbye()
    assert ActionStatus.OK is leader.load(make_variant(store)).status


def test_the_same_gateway_may_dial_again(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    first = dial(executor)
    first.greet(name="gateway-a", epoch=3)
    second = dial(executor)
    second.greet(name="gateway-a", epoch=3)
    first.hear_goodbye()
    assert ActionStatus.OK is second.load(make_variant(store)).status


def test_a_hello_that_is_out_of_date_cannot_be_welcomed(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    leader = dial(executor)
    leader.greet(name="gateway-a", epoch=1)
    early = dial(executor)
    assert isinstance(early.hear().message, Hello)
    leader.load(make_variant(store))
    early.say(Welcome(version=PROTOCOL_VERSION, gateway="gateway-b", epoch=2))
    assert "dial again" in early.hear_goodbye()
    assert dial(executor).greet(name="gateway-b", epoch=2).resident == ("ns/v",)


def test_only_so_many_gateways_are_let_in(start_executor: StartExecutor, dial: Dial) -> None:
    executor = start_executor()
    admitted = [dial(executor) for _ in range(4)]
    for gateway in admitted:
        gateway.hear()
    turned_away = dial(executor)
    # No Hello comes, so this is read off the wire.
    turned_away.session.state = type(turned_away.session.state).OPEN
    assert "4 gateways are connected already" in turned_away.hear_goodbye()
    admitted[0].close()
    executor.wait_for("link_closed")
    dial(executor).greet()


def test_a_gateway_may_leave_in_the_middle_of_a_payload(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    leaving = dial(executor)
    leaving.greet()
    leaving.load(make_variant(store))
    message = leaving.infer_message(batch_size=4, rows=4)
    leaving.socket.sendall(leaving.session.send(message, payload_bytes=4 * ROW_IN))
    leaving.socket.sendall(b"\xff" * (2 * ROW_IN))
    leaving.close()
    staying = dial(executor)
    staying.greet()
    payload = rows_of(1, 2, 3)
    result, answer = staying.infer(payload, batch_size=4, rows=3)
    assert ActionStatus.OK is result.status
    assert answers_to(payload) == answer


def test_what_a_gateway_sent_ahead_is_dropped_when_it_leaves(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    leaving = dial(executor)
    leaving.greet()
    leaving.load(make_variant(store, batch_ns={1: SECOND}), batch_sizes=(1,))
    for _ in range(40):  # more than the next gateway would wait for, and less than a socket holds
        leaving.begin_infer(rows_of(1))
    leaving.close()
    staying = dial(executor)
    staying.greet()
    assert ActionStatus.OK is staying.infer(rows_of(2))[0].status


def test_a_load_whose_gateway_left_leaves_nothing_behind(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor()
    leaving = dial(executor)
    leaving.greet()
    leaving.begin_load(make_variant(store, load_ns=3 * SECOND))
    leaving.begin_load(make_variant(store, seed=1), variant="ns/w")
    leaving.say(Ping(sent=1))
    leaving.hear()  # the loads are queued
    leaving.close()
    executor.wait_for("link_closed")
    staying = dial(executor)
    assert staying.greet().resident == ()
    # The loader takes this one after the abandoned one has ended.
    assert ActionStatus.OK is staying.load(make_variant(store, seed=2), variant="ns/x").status
    assert ActionStatus.WEIGHTS_MISSING is staying.unload("ns/v").status
    assert ActionStatus.WEIGHTS_MISSING is staying.unload("ns/w").status


def test_goodbye_ends_the_link(start_executor: StartExecutor, dial: Dial) -> None:
    executor = start_executor()
    gateway = dial(executor)
    gateway.greet()
    gateway.say(Goodbye(reason="done"))
    with pytest.raises(EOFError):
        gateway.hear()
    assert executor.wait_for("link_closed")["reason"]


def test_a_gateway_that_reads_nothing_loses_its_link(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    sha256 = make_synthetic_artifact(
        store,
        model="ns/m",
        inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 1)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.UINT8, shape=(-1, 1 << 26)),),
        batch_ns={1: 0},
        load_ns=0,
    )
    executor = start_executor()
    deaf = dial(executor)
    deaf.greet()
    deaf.load(sha256, batch_sizes=(1,))
    deaf.begin_infer(b"x")
    assert "does not read" in executor.wait_for("link_closed")["reason"]
    assert dial(executor).greet().resident == ("ns/v",)


def test_tcp_links_work_as_unix_links_do(
    start_executor: StartExecutor, dial: Dial, store: Path
) -> None:
    executor = start_executor(listen="tcp:127.0.0.1:0")
    gateway = dial(executor)
    gateway.greet()
    assert gateway.socket.family == socket.AF_INET
    gateway.load(make_variant(store))
    payload = rows_of(1, 2)
    assert answers_to(payload) == gateway.infer(payload, batch_size=4, rows=2)[1]
