"""The CA and the leaves: made once, true to each other, and rotated without a gap."""

import asyncio
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from operator_access import api_of, make_namespace
from operator_api_server import ApiServer

from isochrone.units import SECOND
from isochrone_operator import names, resources
from isochrone_operator.certificates import (
    AUTHORITY_LIFE,
    LEAF_LIFE,
    OVERLAP,
    SKEW,
    Authority,
    bundle_patch,
    leaf_secret,
    make_authority,
    next_step,
    read_authority,
    rotated,
    stale_bundles,
    tend_authority,
)
from isochrone_operator.certificates_read import decode, fingerprint, read_certificate
from isochrone_operator.json_values import Json, texts
from isochrone_operator.logs import Log
from isochrone_operator.reconciliation import LeafOrder

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def order(
    name: str = names.GATEWAY_TLS, peer: str = "gateway.shop.isochrone.internal"
) -> LeafOrder:
    return LeafOrder(namespace="shop", name=name, dns_name=peer, owner=None)


def instant(at: datetime) -> int:
    return int(at.timestamp()) * SECOND


def fresh() -> Authority:
    return Authority(signing=make_authority(NOW), upcoming=None, former=())


def write(folder: Path, secret: Json) -> Path:
    folder.mkdir()
    for key in ("tls.crt", "tls.key", "ca.crt"):
        (folder / key).write_bytes(decode(texts(secret, "data"), key))
    return folder


def handshake(server: Path, client: Path, *, name: str) -> str:
    """Let both ends greet each other, each asking for the other's certificate; return what broke."""
    here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(server / "ca.crt"))
    here.verify_mode = ssl.CERT_REQUIRED
    here.load_cert_chain(server / "tls.crt", server / "tls.key")
    there = ssl.create_default_context(cafile=str(client / "ca.crt"))
    there.load_cert_chain(client / "tls.crt", client / "tls.key")
    one, other = socket.socketpair()
    broken: list[str] = []

    def serve() -> None:
        try:
            with here.wrap_socket(one, server_side=True) as wrapped:
                wrapped.sendall(b"!")
        except (ssl.SSLError, ConnectionError) as error:
            broken.append(str(error))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with there.wrap_socket(other, server_hostname=name) as wrapped:
            wrapped.recv(1)
    except (ssl.SSLError, ConnectionError) as error:
        broken.append(str(error))
    finally:
        other.close()
        thread.join()
        one.close()
    return "; ".join(broken)


def test_two_leaves_of_one_authority_trust_each_other(tmp_path: Path) -> None:
    authority = Authority(signing=make_authority(datetime.now(UTC)), upcoming=None, former=())
    now = instant(datetime.now(UTC))
    peer = "executor.shop.isochrone.internal"
    gateway = write(tmp_path / "g", leaf_secret(order(), authority, now=now))
    executor = write(
        tmp_path / "e", leaf_secret(order(names.EXECUTOR_TLS, peer), authority, now=now)
    )
    assert handshake(executor, gateway, name=peer) == ""
    assert "mismatch" in handshake(executor, gateway, name="executor.other.isochrone.internal")
    stranger = Authority(signing=make_authority(datetime.now(UTC)), upcoming=None, former=())
    other = write(tmp_path / "s", leaf_secret(order(), stranger, now=now))
    assert handshake(executor, other, name=peer) != ""


def test_a_secret_says_what_the_snapshot_needs() -> None:
    authority = fresh()
    found = read_certificate(leaf_secret(order(), authority, now=instant(NOW)))
    assert found.namespace == "shop"
    assert found.name == names.GATEWAY_TLS
    assert found.dns_name == "gateway.shop.isochrone.internal"
    assert found.not_before == instant(NOW - SKEW)
    assert found.not_after == instant(NOW + LEAF_LIFE)
    assert found.authority == fingerprint(authority.signing.certificate)


@pytest.mark.parametrize(
    ("data", "problem"),
    [({}, "no tls.crt"), ({"tls.crt": "%%%"}, "no base64"), ({"tls.crt": "aGVsbG8="}, "PEM")],
)
def test_a_broken_secret_is_a_value_error(data: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_certificate({"metadata": {"name": "a"}, "data": data})


def test_rotation_has_three_steps_and_trusts_both_throughout() -> None:
    first = fresh()
    old = first.signing.certificate
    assert rotated(first, NOW + timedelta(days=200)) == first
    due = next_step(first)
    assert abs(due - (NOW + AUTHORITY_LIFE * 2 / 3)) < timedelta(days=1)

    announced = rotated(first, due)
    assert announced.signing == first.signing
    assert announced.upcoming is not None
    assert announced.bundle_pem.count(b"BEGIN") == 2
    assert rotated(announced, due + OVERLAP - timedelta(seconds=1)) == announced

    promoted = rotated(announced, next_step(announced))
    assert promoted.signing == announced.upcoming
    assert promoted.upcoming is None
    assert promoted.former == (old,)
    # Nobody trusts more or less because another one signs.
    assert promoted.bundle_pem == announced.bundle_pem

    ended = rotated(promoted, NOW + AUTHORITY_LIFE + timedelta(days=1))
    assert ended.former == ()


def test_leaves_whose_bundle_is_old_are_found_and_mended() -> None:
    first = fresh()
    secret = leaf_secret(order(), first, now=instant(NOW))
    assert list(stale_bundles([secret], first)) == []
    announced = rotated(first, next_step(first))
    assert list(stale_bundles([secret], announced)) == [secret]
    mended = {**secret, "data": {**texts(secret, "data"), **texts(bundle_patch(announced), "data")}}
    assert list(stale_bundles([mended], announced)) == []
    # Its issuer is still named, although the bundle has two.
    assert read_certificate(mended).authority == fingerprint(first.signing.certificate)


def test_an_authority_made_anew_trusts_whom_cells_trust_and_both_ends_go_on(
    api_server: ApiServer, tmp_path: Path
) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            now = instant(datetime.now(UTC))
            first, _ = await tend_authority(api, namespace, now=now, log=Log())
            peer = "executor.shop.isochrone.internal"
            gateway = leaf_secret(order(), first, now=now)
            executor = leaf_secret(order(names.EXECUTOR_TLS, peer), first, now=now)
            await api.delete(resources.SECRETS, namespace=namespace, name=names.CA_SECRET)
            made, _ = await tend_authority(
                api, namespace, now=now, log=Log(), leaves=[gateway, executor, {"data": {}}]
            )
            assert made.signing != first.signing
            assert made.former == (first.signing.certificate,)
            told = {
                **gateway,
                "data": {**texts(gateway, "data"), **texts(bundle_patch(made), "data")},
            }
            # Bundles reach the two ends one after the other; so do certificates, an hour later.
            renewed = leaf_secret(order(), made, now=now)
            knows = {
                **executor,
                "data": {**texts(executor, "data"), **texts(bundle_patch(made), "data")},
            }
            for number, (one, other) in enumerate(
                ((gateway, executor), (told, executor), (told, knows), (renewed, knows))
            ):
                client = write(tmp_path / f"g{number}", one)
                server = write(tmp_path / f"e{number}", other)
                assert handshake(server, client, name=peer) == "", number
            # To sign anew before both know is what broke.
            client = write(tmp_path / "too-early", renewed)
            server = write(tmp_path / "not-told", executor)
            assert handshake(server, client, name=peer) != ""

    asyncio.run(run())


def test_replicas_that_start_together_make_one_authority(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            found = await asyncio.gather(
                *(tend_authority(api, namespace, now=instant(NOW), log=Log()) for _ in range(6))
            )
            assert len({authority.bundle_pem for authority, _secret in found}) == 1
            stored = await api.get(resources.SECRETS, namespace=namespace, name=names.CA_SECRET)
            assert read_authority(stored).bundle_pem == found[0][0].bundle_pem
            # Both see that the time has come, and one of them wins.
            later = instant(next_step(found[0][0]))
            turned = await asyncio.gather(
                *(tend_authority(api, namespace, now=later, log=Log()) for _ in range(4))
            )
            assert len({authority.bundle_pem for authority, _secret in turned}) == 1
            assert turned[0][0].bundle_pem.count(b"BEGIN") == 2

    asyncio.run(run())


def test_a_secret_with_something_else_is_left_alone(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            secret = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"namespace": namespace, "name": names.CA_SECRET},
                "data": {"password": "c2VjcmV0"},
            }
            await api.create(resources.SECRETS, secret, manager="test")
            with pytest.raises(ValueError, match=r"data has no tls\.key"):
                await tend_authority(api, namespace, now=instant(NOW), log=Log())
            kept = await api.get(resources.SECRETS, namespace=namespace, name=names.CA_SECRET)
            assert texts(kept, "data") == {"password": "c2VjcmV0"}

    asyncio.run(run())
