"""Encrypted links from the gateway's end: whom it takes for its executor, and files that change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isochrone_executor.testing_tls import EXECUTOR, GATEWAY, Authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gateway.conftest import Cell, Process, Tools

TCP = "tcp:127.0.0.1:0"


class Secrets:
    """The two Secrets of a namespace, as folders, and the authority behind them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.gateway = self.authority.issue(folder / "gateway-tls", GATEWAY)
        self.executor = self.authority.issue(folder / "executor-tls", EXECUTOR)

    @property
    def config(self) -> dict[str, str]:
        return {"directory": str(self.gateway), "peer": EXECUTOR}


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return Secrets(tmp_path)


def start_executor(cell: Cell, folder: Path, worker: str = "w1", peer: str = GATEWAY) -> Process:
    return cell.start_executor(worker, "--tls", str(folder), "--peer", peer, listen=TCP)


def start_gateway(cell: Cell, secrets: Secrets, *, wait: bool = True, **config: object) -> None:
    path = str(cell.folder / "cell.json")
    cell.start_gateway(cell_path=path, tls=secrets.config, wait=wait, **config)


def test_an_encrypted_cell_serves(cell: Cell, tools: type[Tools], secrets: Secrets) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor)
    cell.write_cell("w1")
    start_gateway(cell, secrets)
    wire = cell.wire()
    for seed in range(20):
        rows = tools.rows(seed, seed + 9)
        wire.send(b"".join(tools.request(rows)))
        reply = wire.read()
        assert (reply.status, reply.binary) == (200, tools.answers(rows))
    # Goodbye comes through encryption, too.
    assert cell.gateway.stop() == 0
    closed = cell.executors["w1"].wait_for("link_closed")[0]
    assert closed["reason"] == "goodbye: this gateway stops"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("stranger", "self-signed certificate in certificate chain|unable to get local issuer"),
        ("name", "Hostname mismatch"),
        ("expired", "certificate has expired"),
        ("plain", "TLS: WRONG_VERSION_NUMBER"),
    ],
)
def test_an_executor_that_is_not_ours_is_not_taken(
    cell: Cell, secrets: Secrets, tmp_path: Path, case: str, says: str
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    folder = tmp_path / "other"
    match case:
        case "stranger":
            Authority().issue(folder, EXECUTOR, believed=secrets.authority.pem())
        case "name":
            secrets.authority.issue(folder, "executor.elsewhere.isochrone.internal")
        case "expired":
            secrets.authority.issue(folder, EXECUTOR, expired=True)
    if case == "plain":
        cell.start_executor(listen=TCP)
    else:
        start_executor(cell, folder)
    cell.write_cell("w1")
    start_gateway(cell, secrets, wait=False)
    reason = cell.gateway.wait_for("executor_unreachable")[0]["reason"]
    assert any(part in reason for part in says.split("|")), reason
    assert cell.metric("isochrone_executor_up", worker="w1") == 0
    assert cell.executors["w1"].named("commanded") == []
    # The right one in its place is taken.
    cell.executors["w1"].stop()
    start_executor(cell, secrets.executor)
    cell.write_cell("w1")
    cell.wait_ready()


@pytest.mark.parametrize(
    ("case", "says"),
    [("stranger", "TLSV1_ALERT"), ("name", "not for gateway.ns"), ("expired", "EXPIRED")],
)
def test_a_gateway_that_is_not_theirs_is_told_so(
    cell: Cell, secrets: Secrets, case: str, says: str
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor).wait_for("listening")
    match case:
        case "stranger":
            Authority().issue(secrets.gateway, GATEWAY, believed=secrets.authority.pem())
        case "name":
            secrets.authority.issue(secrets.gateway, "gateway.elsewhere.isochrone.internal")
        case "expired":
            secrets.authority.issue(secrets.gateway, GATEWAY, expired=True)
    cell.write_cell("w1")
    start_gateway(cell, secrets, wait=False)
    assert says in cell.gateway.wait_for("executor_unreachable")[0]["reason"]
    assert cell.executors["w1"].wait_for("handshake_failed")
    assert cell.executors["w1"].named("commanded") == []
    # It is taken once its files are right: the next connection reads them.
    secrets.authority.issue(secrets.gateway, GATEWAY)
    cell.wait_ready()


def test_a_gateway_without_encryption_is_not_let_in(cell: Cell, secrets: Secrets) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor)
    cell.write_cell("w1")
    cell.start_gateway(
        cell_path=str(cell.folder / "cell.json"), wait=False, limits={"ping_timeout_s": 1.0}
    )
    assert cell.gateway.wait_for("executor_unreachable")
    assert cell.executors["w1"].named("commanded") == []


def test_all_certificates_rotate_under_load_without_a_failed_request(
    cell: Cell, tools: type[Tools], secrets: Secrets
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor)
    cell.write_cell("w1")
    start_gateway(cell, secrets)
    loader = tools.loader(cell)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "it serves")
    former, latter = secrets.authority, Authority("isochrone-ca-2")
    both = former.pem() + latter.pem()
    # 1. All believe both authorities. 2. The leaves are the new one's. 3. The old one is gone.
    steps = ((former, both), (latter, both), (latter, latter.pem()))
    for step, (authority, believed) in enumerate(steps, 1):
        here, next_ = f"w{step}", f"w{step + 1}"
        # Executors see it one after the other, as kubelets do; the gateway in between.
        authority.issue(secrets.executor, EXECUTOR, believed=believed)
        authority.issue(secrets.gateway, GATEWAY, believed=believed)
        start_executor(cell, secrets.executor, next_)
        cell.write_cell(here, next_)
        cell.gateway.wait_for("executor_joined", count=step + 1)
        tools.wait_until(
            lambda name=next_: any(
                worker["worker"] == name and worker["resident"]
                for worker in cell.observed()["workers"]
            ),
            "the next one has loaded",
        )
        assert len(cell.gateway.named("credentials_read")) == step
        cell.write_cell(next_, leaving=(here,))
        cell.executors[here].wait_for("link_closed")
        before = loader.outcomes["on_time"]
        tools.wait_until(
            lambda before=before: loader.outcomes["on_time"] > before + 20, "it goes on"
        )
    loader.stop()
    assert set(loader.outcomes) == {"on_time"}


def test_a_link_survives_the_rotation_and_is_renewed_with_the_new_files(
    cell: Cell, tools: type[Tools], secrets: Secrets
) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor)
    cell.write_cell("w1", epoch=1)
    start_gateway(cell, secrets)
    loader = tools.loader(cell)
    tools.wait_until(lambda: loader.outcomes["on_time"] > 20, "it serves")
    secrets.authority = Authority("isochrone-ca-2")
    secrets.authority.issue(secrets.executor, EXECUTOR)
    secrets.authority.issue(secrets.gateway, GATEWAY)
    before = loader.outcomes["on_time"]
    tools.wait_until(lambda: loader.outcomes["on_time"] > before + 20, "the link goes on")
    cell.write_cell("w1", epoch=2)  # a new link between the same processes
    cell.executors["w1"].wait_for("commanded", count=2)
    assert cell.executors["w1"].named("credentials_read")
    before = loader.outcomes["on_time"]
    tools.wait_until(lambda: loader.outcomes["on_time"] > before + 20, "the new link serves")
    loader.stop()
    assert set(loader.outcomes) <= {"on_time", "refused"}


def test_a_bad_file_keeps_the_last_good_ones(cell: Cell, secrets: Secrets) -> None:
    cell.write_plan({"ns/one": (cell.variant(),)})
    start_executor(cell, secrets.executor)
    cell.write_cell("w1", epoch=1)
    start_gateway(cell, secrets)
    (secrets.gateway / "tls.key").write_text("no key")
    cell.write_cell("w1", epoch=2)
    assert "PEM" in cell.gateway.wait_for("credentials_unusable")[0]["reason"]
    cell.gateway.wait_for("executor_joined", count=2)
    cell.wait_ready()
