"""Encrypted links: who is let in, who is not and why, files that change, bytes that arrive whole."""

import random
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isochrone.catalog import Datatype, TensorSpec
from isochrone.execution import ActionStatus
from isochrone.protocol.messages import Hello, Ping, Pong
from isochrone_executor.backends.synthetic import make_synthetic_artifact, synthetic_answer
from isochrone_executor.testing import (
    PATIENCE_S,
    ExecutorProcess,
    Gateway,
    StartExecutor,
    answers_to,
    make_variant,
    rows_of,
)
from isochrone_executor.testing_tls import EXECUTOR, GATEWAY, Authority, client_context

DialTls = Callable[..., Gateway]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def start(start_executor: StartExecutor, tmp_path: Path, authority: Authority) -> StartExecutor:
    """Start executors that want to be dialed by a gateway of ``authority``."""

    def begin(*extra: str, listen: str = "", **options: object) -> ExecutorProcess:
        del listen, options
        folder = authority.issue(tmp_path / "executor-tls", EXECUTOR)
        flags = ("--tls", str(folder), "--peer", GATEWAY)
        return start_executor(*flags, *extra, listen="tcp:127.0.0.1:0")

    return begin


@pytest.fixture
def dial_tls(tmp_path: Path, authority: Authority) -> Iterator[DialTls]:
    """Connect gateways with the certificate in a folder, by default a good one."""
    gateways: list[Gateway] = []
    good = tmp_path / "gateway-tls"
    authority.issue(good, GATEWAY)

    def connect(executor: ExecutorProcess, folder: Path = good, *, peer: str = EXECUTOR) -> Gateway:
        gateways.append(Gateway(executor.address, tls=client_context(folder), peer=peer))
        return gateways[-1]

    yield connect
    for gateway in gateways:
        gateway.close()


def refused_with(gateway: Gateway) -> str:
    """Return what a gateway that is not let in gets to read: the alert, or nothing."""
    try:
        gateway.hear()
    except ssl.SSLError as error:
        return error.reason or str(error)
    except EOFError:
        return "closed"
    raise AssertionError("a Hello came")


def test_a_link_of_the_right_gateway_works_as_a_plain_one(
    start: StartExecutor, dial_tls: DialTls, store: Path
) -> None:
    gateway = dial_tls(start())
    assert isinstance(gateway.socket, ssl.SSLSocket)
    assert gateway.socket.version() == "TLSv1.3"
    gateway.greet()
    assert ActionStatus.OK is gateway.load(make_variant(store)).status
    for seed in range(20):
        payload = rows_of(seed, seed + 1)
        assert answers_to(payload) == gateway.infer(payload, batch_size=4, rows=2)[1]
    gateway.say(Ping(sent=3))
    assert isinstance(gateway.hear().message, Pong)


def test_another_authoritys_certificate_is_refused(
    start: StartExecutor, dial_tls: DialTls, tmp_path: Path, authority: Authority
) -> None:
    executor = start()
    other = Authority().issue(tmp_path / "other", GATEWAY, believed=authority.pem())
    assert refused_with(dial_tls(executor, other)) == "TLSV1_ALERT_UNKNOWN_CA"
    assert "its certificate: " in executor.wait_for("handshake_failed")["reason"]


def test_an_expired_certificate_is_refused(
    start: StartExecutor, dial_tls: DialTls, tmp_path: Path, authority: Authority
) -> None:
    executor = start()
    old = authority.issue(tmp_path / "old", GATEWAY, expired=True)
    assert "EXPIRED" in refused_with(dial_tls(executor, old))
    assert "expired" in executor.wait_for("handshake_failed")["reason"]


def test_a_certificate_for_another_name_is_told_so(
    start: StartExecutor, dial_tls: DialTls, tmp_path: Path, authority: Authority
) -> None:
    executor = start()
    other = authority.issue(tmp_path / "other", "gateway.elsewhere.isochrone.internal")
    gateway = dial_tls(executor, other)
    gateway.session.state = type(gateway.session.state).OPEN  # no Hello comes
    assert f"gateway.elsewhere.isochrone.internal, not for {GATEWAY}" in gateway.hear_goodbye()
    assert GATEWAY in executor.wait_for("handshake_failed")["reason"]


def test_no_certificate_is_refused(
    start: StartExecutor, dial_tls: DialTls, authority: Authority
) -> None:
    executor = start()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=authority.pem().decode())
    gateway = Gateway(executor.address, tls=bare, peer=EXECUTOR)
    assert "CERTIFICATE_REQUIRED" in refused_with(gateway)
    gateway.close()
    assert executor.wait_for("handshake_failed")
    dial_tls(executor).greet()


def test_older_versions_of_tls_are_refused(
    start: StartExecutor, tmp_path: Path, authority: Authority
) -> None:
    context = client_context(authority.issue(tmp_path / "gateway-tls", GATEWAY))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        Gateway(start().address, tls=context, peer=EXECUTOR)


def test_a_plain_gateway_is_refused(start: StartExecutor, dial_tls: DialTls) -> None:
    executor = start()
    plain = Gateway(executor.address)
    plain.socket.sendall(b"ISO1" + bytes(60))
    assert plain.socket.recv(4) != b"ISO1"
    plain.close()
    assert executor.wait_for("handshake_failed")
    dial_tls(executor).greet()


def test_a_gateway_does_not_take_an_executor_of_another_name(
    start: StartExecutor, dial_tls: DialTls
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"executor\.elsewhere"):
        dial_tls(start(), peer="executor.elsewhere.isochrone.internal")


def test_probes_of_the_port_are_not_worth_a_word(start: StartExecutor, dial_tls: DialTls) -> None:
    executor = start()
    host, _, port = executor.address.removeprefix("tcp:").rpartition(":")
    for _ in range(5):
        socket.create_connection((host, int(port))).close()
    dial_tls(executor).greet()
    executor.wait_for("commanded")
    assert [line for line in executor.events if line["event"] == "handshake_failed"] == []


def test_half_open_handshakes_are_bounded_and_keep_nobody_out(
    start: StartExecutor, dial_tls: DialTls, store: Path
) -> None:
    executor = start()
    commander = dial_tls(executor)
    commander.greet(name="gateway-a", epoch=1)
    commander.load(make_variant(store))
    host, _, port = executor.address.removeprefix("tcp:").rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(9)]
    for link in silent:
        link.settimeout(PATIENCE_S)
        with suppress(OSError):  # the oldest may be closed by now
            link.sendall(b"\x16\x03\x01\x02")  # the first bytes of a handshake
    payload = rows_of(1)
    assert answers_to(payload) == commander.infer(payload)[1]
    assert silent[0].recv(1) == b""
    assert "others began" in executor.wait_for("handshake_failed")["reason"]
    latter = dial_tls(executor)
    latter.greet(name="gateway-b", epoch=2)
    assert "gateway-b" in commander.hear_goodbye()
    # Whoever says no more is dropped in time, also beside a gateway that commands.
    assert all(link.recv(1) == b"" for link in silent)
    for link in silent:
        link.close()


def test_rotated_files_serve_the_next_connection_and_keep_the_present_one(
    start: StartExecutor, dial_tls: DialTls, tmp_path: Path, authority: Authority, store: Path
) -> None:
    executor = start()
    before = dial_tls(executor)
    before.greet()
    before.load(make_variant(store))
    # The authority is renewed with overlap: first all believe both, then the leaves change.
    latter = Authority("isochrone-ca-2")
    both = authority.pem() + latter.pem()
    authority.issue(tmp_path / "executor-tls", EXECUTOR, believed=both)
    moved = latter.issue(tmp_path / "moved", GATEWAY, believed=both)
    dial_tls(executor, moved).hear()
    assert executor.wait_for("credentials_read")
    latter.issue(tmp_path / "executor-tls", EXECUTOR, believed=latter.pem())
    new_only = latter.issue(tmp_path / "new-only", GATEWAY)
    dial_tls(executor, new_only).hear()
    payload = rows_of(5)
    assert answers_to(payload) == before.infer(payload)[1]
    with pytest.raises(ssl.SSLCertVerificationError):
        dial_tls(executor)  # which believes the former authority alone


def test_a_bad_file_keeps_the_last_good_ones_and_says_so_once(
    start: StartExecutor, dial_tls: DialTls, tmp_path: Path, authority: Authority
) -> None:
    executor = start()
    executor.wait_for("listening")
    folder = tmp_path / "executor-tls"
    (folder / "tls.crt").write_text("no certificate")
    for _ in range(2):
        assert isinstance(dial_tls(executor).hear().message, Hello)
    assert "must be PEM files" in executor.wait_for("credentials_unusable")["reason"]
    (folder / "tls.crt").unlink()
    silent = dial_tls(executor)
    silent.hear()
    found = [line for line in executor.events if line["event"] == "credentials_unusable"]
    assert [line["reason"].partition(":")[0] for line in found][1:] == ["No such file or directory"]
    authority.issue(folder, EXECUTOR)
    for link in executor.events:
        assert link["event"] != "credentials_read"
    silent.close()
    dial_tls(executor).hear()
    assert executor.wait_for("credentials_read")


@pytest.mark.parametrize("rows", [1, 3])
def test_large_payloads_pass_whole_each_way(
    start: StartExecutor, dial_tls: DialTls, store: Path, rows: int
) -> None:
    inputs = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 602_112)),)
    outputs = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 1 << 19)),)
    sha256 = make_synthetic_artifact(
        store, model="ns/m", inputs=inputs, outputs=outputs, batch_ns={1: 0, 4: 0}, load_ns=0
    )
    gateway = dial_tls(start())
    gateway.greet()
    gateway.load(sha256)
    sent = [random.Random(seed).randbytes(602_112) for seed in range(rows)]
    answer = b"".join(synthetic_answer([row], outputs)[0] for row in sent)
    for _ in range(3):
        # Two ahead, so that the second's first bytes come in one record with the first's last.
        first = gateway.begin_infer(b"".join(sent), batch_size=4, rows=rows)
        second = gateway.begin_infer(b"".join(sent), batch_size=4, rows=rows)
        assert gateway.hear_answer(first)[1] == answer
        assert gateway.hear_answer(second)[1] == answer


def test_many_actions_in_one_record_are_all_done(
    start: StartExecutor, dial_tls: DialTls, store: Path
) -> None:
    gateway = dial_tls(start())
    gateway.greet()
    gateway.load(make_variant(store, batch_ns={1: 0, 4: 0}))
    data, expected = b"", []
    for seed in range(40):
        message = gateway.infer_message()
        payload = rows_of(seed)
        data += bytes(gateway.session.send(message, payload_bytes=len(payload))) + payload
        expected.append((message.action, answers_to(payload)))
    assert len(data) < 16_384
    gateway.socket.sendall(data)
    for action, answer in expected:
        assert gateway.hear_answer(action)[1] == answer


def test_a_gateway_that_reads_nothing_loses_its_link(
    start: StartExecutor, dial_tls: DialTls, store: Path
) -> None:
    sha256 = make_synthetic_artifact(
        store,
        model="ns/m",
        inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 1)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.UINT8, shape=(-1, 1 << 26)),),
        batch_ns={1: 0},
        load_ns=0,
    )
    executor = start()
    deaf = dial_tls(executor)
    deaf.greet()
    deaf.load(sha256, batch_sizes=(1,))
    deaf.begin_infer(b"x")
    assert "does not read" in executor.wait_for("link_closed")["reason"]
    assert dial_tls(executor).greet().resident == ("ns/v",)


def test_credentials_that_are_not_there_keep_an_executor_from_starting(
    start_executor: StartExecutor, tmp_path: Path
) -> None:
    executor = start_executor(
        *("--tls", str(tmp_path / "none"), "--peer", GATEWAY), listen="tcp:127.0.0.1:0"
    )
    assert executor.stop_when_done() == 1
    assert "tls.crt" in executor.wait_for("cannot_start")["reason"]
