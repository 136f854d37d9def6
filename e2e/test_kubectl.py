"""What people and tools do with kubectl: apply on either side, wait, and judge by kstatus."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest

from isochrone_cluster.client_tools import Kubectl, tool
from isochrone_cluster.failures import wait_until
from isochrone_e2e.kstatus import kstatus
from isochrone_e2e.manifests import listed, service_manifest
from isochrone_e2e.waiting import Objects

SERVICE: Final = "by-hand"
OURS: Final = ("models", "modelvariants", "inferenceservices", "servingplans", "acceleratorpools")
READY_S: Final = 120.0


@pytest.fixture(scope="module")
def written(steady: Objects, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lend a file that declares one more service of the namespace; delete the service at the end."""
    file = tmp_path_factory.mktemp("manifests") / "service.json"
    write(file, target="1500ms")
    yield file
    steady.kubectl("delete", "infsvc", SERVICE, *where(), "--ignore-not-found", timeout_s=90)


def where() -> tuple[str, ...]:
    return ("--namespace", "steady")


def write(file: Path, *, target: str, floor: str = "0") -> None:
    objectives = {"latency": {"target": target, "percentile": "99"}, "accuracyFloor": floor}
    manifest = service_manifest("steady", SERVICE, 2.0, objectives=objectives)
    file.write_text(json.dumps(listed([manifest])), encoding="utf-8")


class Watched:
    """Every version of one service that the API server shows while the block runs."""

    def __init__(self, kubectl: Kubectl, file: Path) -> None:
        self._file = file.with_suffix(".watched")
        words = ("get", "infsvc", *where(), "--watch", "--output=json", "--output-watch-events")
        field = f"--field-selector=metadata.name={SERVICE}"
        self._command = [str(tool("kubectl")), f"--kubeconfig={kubectl.kubeconfig}", *words, field]

    def __enter__(self) -> Self:
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(self._command, stdout=out)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def versions(self) -> list[dict[str, Any]]:
        """Return what was shown so far, each version whole."""
        text, decoder, found = self._file.read_text(encoding="utf-8"), json.JSONDecoder(), []
        while text := text.lstrip():
            try:
                event, end = decoder.raw_decode(text)
            except json.JSONDecodeError:  # the last one is still being written
                break
            found.append(event["object"])
            text = text[end:]
        return found

    def judged(self) -> list[str]:
        """Return how kstatus judges each version."""
        return [kstatus(version) for version in self.versions()]


def is_ready(version: dict[str, Any]) -> bool:
    conditions = version["status"].get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_a_service_applied_on_the_clients_side_becomes_current_when_it_is_ready(
    steady: Objects, written: Path
) -> None:
    with Watched(steady.kubectl, written) as watched:
        said = steady.kubectl("apply", f"--filename={written}")
        assert said.split() == [f"inferenceservice.isochrone.dev/{SERVICE}", "created"]
        words = ("wait", "--for=condition=Ready", f"infsvc/{SERVICE}", f"--timeout={READY_S:.0f}s")
        steady.kubectl(*words, *where(), timeout_s=READY_S + 10)
        wait_until("it is Current", lambda: "Current" in watched.judged(), timeout_s=READY_S)
        versions = watched.versions()

    assert kstatus(versions[0]) == "InProgress"
    assert all(is_ready(version) for version in versions if kstatus(version) == "Current")
    assert "Failed" not in {kstatus(version) for version in versions}


def test_applied_again_it_is_unchanged_and_shows_no_difference(
    steady: Objects, written: Path
) -> None:
    assert "unchanged" in steady.kubectl("apply", f"--filename={written}")
    assert steady.kubectl("diff", f"--filename={written}") == ""


def test_an_edit_on_the_clients_side_is_followed(steady: Objects, written: Path) -> None:
    write(written, target="900ms")

    assert "configured" in steady.kubectl("apply", f"--filename={written}")

    steady.wait("inferenceservice", SERVICE, "Ready", timeout_s=READY_S)
    plan: Any = steady.kubectl.get("splan", "isochrone", *where())
    services = {each["name"]: each for each in plan["spec"]["services"]}
    assert services[SERVICE]["objectives"]["latency"]["target"] == "900ms"


def test_the_servers_side_takes_over_what_the_clients_side_applied(
    steady: Objects, written: Path
) -> None:
    write(written, target="1700ms")

    said = steady.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={written}")

    assert "serverside-applied" in said
    steady.wait("inferenceservice", SERVICE, "Ready", timeout_s=READY_S)
    assert steady.kubectl("diff", "--server-side", f"--filename={written}") == ""


def test_the_operator_owns_no_field_of_a_spec(steady: Objects, written: Path) -> None:
    assert written.exists()
    shown: Any = steady.kubectl.get("infsvc", SERVICE, *where(), "--show-managed-fields")
    managed = shown["metadata"]["managedFields"]
    owners = {each["manager"] for each in managed if "f:spec" in each["fieldsV1"]}

    assert owners <= {"kubectl", "kubectl-client-side-apply"}
    assert {e["manager"] for e in managed if "f:status" in e["fieldsV1"]} == {"isochrone"}


def test_what_cannot_be_had_is_failed_and_current_once_it_can(
    steady: Objects, written: Path
) -> None:
    write(written, target="1700ms", floor="0.9")
    with Watched(steady.kubectl, written) as watched:
        steady.kubectl("apply", "--server-side", f"--filename={written}")
        wait_until("it is Failed", lambda: "Failed" in watched.judged(), timeout_s=READY_S)
        steady.wait("inferenceservice", SERVICE, "Stalled", reason="InfeasibleAccuracy")
        write(written, target="1700ms")
        steady.kubectl("apply", "--server-side", f"--filename={written}")
        wait_until("it is Current", lambda: watched.judged()[-1] == "Current", timeout_s=READY_S)


@pytest.mark.parametrize("kind", OURS)
def test_at_rest_kstatus_finds_every_object_current(steady: Objects, kind: str) -> None:
    def current() -> bool:
        # Pools are of the whole cluster, and other tests' may have no nodes.
        scope = ("synthetic",) if kind == "acceleratorpools" else where()
        found: Any = steady.kubectl.get(kind, *scope)
        items = found.get("items", [found])
        return bool(items) and {kstatus(item) for item in items} == {"Current"}

    wait_until(f"{kind} are Current", current, timeout_s=READY_S)
