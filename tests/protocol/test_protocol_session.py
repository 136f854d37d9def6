"""Sessions: who may say what, when; and which gateway commands."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import ProtocolError
from isochrone.execution import ActionStatus
from isochrone.protocol.framing import Frame, encode_frame
from isochrone.protocol.messages import (
    PROTOCOL_VERSION,
    Goodbye,
    Hello,
    InferBatch,
    LoadVariant,
    Message,
    Ping,
    Pong,
    Result,
    UnloadVariant,
    Welcome,
)
from isochrone.protocol.session import MAY_SAY, Command, Role, Session, State

HELLO = Hello(
    version=PROTOCOL_VERSION,
    worker="w",
    group="g",
    pool="p",
    backends=(),
    memory_bytes=1,
    resident=(),
    now=0,
)
WELCOME = Welcome(version=PROTOCOL_VERSION, gateway="a", epoch=1)
INFER = InferBatch(action=1, variant="v", batch_size=1, rows=1, earliest=0, latest=1, expected_ns=0)
RESULT = Result(action=1, status=ActionStatus.OK, received=0, begin=0, end=0, duration_ns=0)
SPEAKABLE: tuple[Message, ...] = (
    HELLO,
    WELCOME,
    LoadVariant(
        action=1,
        variant="v",
        sha256="",
        backend="",
        batch_sizes=(1,),
        earliest=0,
        latest=1,
        expected_ns=0,
    ),
    UnloadVariant(action=1, variant="v", earliest=0, latest=1, expected_ns=0),
    INFER,
    RESULT,
    Ping(sent=0),
    Pong(sent=0, now=0),
    Goodbye(reason="r"),
)
TO_STATE: dict[State, tuple[tuple[Role, Message], ...]] = {
    State.OPENING: (),
    State.GREETED: ((Role.EXECUTOR, HELLO),),
    State.OPEN: ((Role.EXECUTOR, HELLO), (Role.GATEWAY, WELCOME)),
    State.CLOSED: ((Role.EXECUTOR, Goodbye(reason="r")),),
}


def make(role: Role, state: State = State.OPENING) -> Session:
    """Return a session of ``role`` that has come to ``state``."""
    session = Session(role, place=lambda _message, size: (memoryview(bytearray(size)),))
    for speaker, message in TO_STATE[state]:
        if speaker is role:
            session.send(message)
        else:
            hear(session, bytes(encode_frame(message)))
    assert state is session.state
    return session


def hear(session: Session, stream: bytes) -> list[Frame]:
    buffer = session.get_buffer()
    buffer[: len(stream)] = stream
    session.received(len(stream))
    frames = []
    while (frame := session.next_frame()) is not None:
        frames.append(frame)
    return frames


def other(role: Role) -> Role:
    return Role.GATEWAY if role is Role.EXECUTOR else Role.EXECUTOR


@pytest.mark.parametrize(
    ("role", "state", "message"),
    list(product(Role, State, SPEAKABLE)),
    ids=lambda value: getattr(value, "value", type(value).__name__),
)
def test_only_what_the_table_allows_is_said_or_heard(
    role: Role, state: State, message: Message
) -> None:
    after = MAY_SAY[role][state].get(type(message))
    speaker, listener = make(role, state), make(other(role), state)
    if after is None:
        with pytest.raises(AssertionError):
            speaker.send(message)
        with pytest.raises(ProtocolError, match="not allowed"):
            hear(listener, bytes(encode_frame(message)))
    else:
        assert [message] == [f.message for f in hear(listener, bytes(speaker.send(message)))]
        assert after is speaker.state is listener.state


def test_the_table_speaks_of_every_message_and_state() -> None:
    said = {kind for states in MAY_SAY.values() for row in states.values() for kind in row}
    assert {type(message) for message in SPEAKABLE} == said
    for states in MAY_SAY.values():
        assert set(State) == set(states)
        assert states[State.CLOSED] == {}


def test_a_whole_conversation_keeps_both_ends_in_step() -> None:
    gateway, executor = make(Role.GATEWAY), make(Role.EXECUTOR)
    hear(gateway, bytes(executor.send(HELLO)))
    hear(executor, bytes(gateway.send(WELCOME)))
    frame = hear(executor, bytes(gateway.send(INFER, payload_bytes=3)) + b"abc")[0]
    assert (frame.message, b"".join(frame.payload)) == (INFER, b"abc")
    frame = hear(gateway, bytes(executor.send(RESULT, payload_bytes=2)) + b"de")[0]
    assert (frame.message, b"".join(frame.payload)) == (RESULT, b"de")
    hear(gateway, bytes(executor.send(Goodbye(reason="r"))))
    assert State.CLOSED is gateway.state is executor.state


@pytest.mark.parametrize(
    ("role", "state", "greeting"),
    [
        (Role.GATEWAY, State.OPENING, HELLO),
        (Role.EXECUTOR, State.GREETED, WELCOME),
    ],
)
def test_another_version_is_refused(role: Role, state: State, greeting: Hello | Welcome) -> None:
    session = make(role, state)
    stream = bytes(encode_frame(greeting)).replace(b"version\x01", b"version\x02")
    with pytest.raises(ProtocolError, match=r"version 2 .* program 1"):
        hear(session, stream)
    session.send(Goodbye(reason="another version"))


def test_a_payload_behind_a_message_that_has_none_is_refused() -> None:
    session = make(Role.EXECUTOR, State.OPEN)
    with pytest.raises(ProtocolError, match="Ping comes with 4 bytes"):
        hear(session, bytes(encode_frame(Ping(sent=0), 4)))


def test_no_memory_is_asked_for_before_the_message_may_come() -> None:
    asked: list[int] = []

    def place(_message: Message, payload_bytes: int) -> None:
        asked.append(payload_bytes)

    session = Session(Role.EXECUTOR, place=place)
    with pytest.raises(ProtocolError):
        hear(session, bytes(encode_frame(INFER, 1 << 20)))
    assert asked == []


def test_the_bound_of_a_payload_is_the_callers() -> None:
    session = Session(Role.EXECUTOR, place=lambda _message, _size: None, payload_bytes_max=10)
    with pytest.raises(ProtocolError, match="payload of 11 bytes"):
        hear(session, bytes(encode_frame(INFER, 11)))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), max_size=30))
def test_the_epoch_that_commands_never_falls(claims: list[tuple[str, int, bool]]) -> None:
    command = Command()
    seen = -1
    for gateway, epoch, leaves_first in claims:
        if leaves_first:
            command.release()
        holder = command.gateway
        refusal = command.claim(Welcome(version=1, gateway=gateway, epoch=epoch))
        obeyed = epoch > seen or (epoch == seen and holder in {None, gateway})
        assert obeyed == (refusal is None)
        seen = max(seen, epoch) if obeyed else seen
        assert seen == command.epoch
