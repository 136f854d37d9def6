"""A real Argo CD brings the product and what a team declares out of a git repository, and keeps them so.

The repository holds this tree's charts, and the Applications and the health script of `examples/gitops` as
they are, but for the repository's address and the images. What the team declares is synthetic.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import yaml

from isochrone_cluster.argocd import NAMESPACE as ARGOCD
from isochrone_cluster.argocd import Repository, argocd
from isochrone_cluster.failures import wait_until
from isochrone_cluster.places import REPOSITORY
from isochrone_e2e.install import SYSTEM, Product
from isochrone_e2e.manifests import (
    VARIANT,
    Manifest,
    declared_status,
    model_manifests,
    pool_manifest,
    service_manifest,
)
from isochrone_e2e.waiting import Objects

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]

GITOPS: Final = REPOSITORY / "examples" / "gitops" / "argocd"
TEAM: Final = "photos"
"""Namespace of the example's Application of that name."""

SERVICE: Final = "followed"
POOL: Final = "followed"
IMPOSSIBLE: Final = "impossible"
READY_S: Final = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """The repository that Argo CD follows, and what it makes of it."""

    product: Product
    repository: Repository
    digest: str

    @property
    def objects(self) -> Objects:
        """What the team has in the cluster."""
        return Objects(kubectl=self.product.kubectl, namespace=TEAM)

    def declare(self, *services: Manifest, message: str) -> str:
        """Commit a pool, a model and ``services`` as what the team declares; return the commit."""
        folder = self.repository.folder / "examples" / "kubernetes"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pool = pool_manifest(POOL, nodes_max=2)
        for number, manifest in enumerate((pool, *model_manifests(TEAM, self.digest), *services)):
            file = folder / f"{number}-{manifest['kind'].lower()}.yaml"
            file.write_text(yaml.safe_dump(manifest), encoding="utf-8")
        return self.repository.publish(message)

    def application(self, name: str) -> Manifest:
        """Return an Application's status; empty while it has none."""
        words = ("get", "applications.argoproj.io", name, f"--namespace={ARGOCD}", "--output=json")
        found: Manifest = json.loads(self.product.kubectl(*words, "--ignore-not-found") or "{}")
        return found.get("status") or {}

    def wait(self, name: str, health: str, *, commit: str = "") -> Manifest:
        """Wait until an Application is Synced, at ``commit`` if given, and of that health."""

        def reached() -> Manifest | None:
            status = self.application(name)
            sync = status.get("sync", {})
            found = (sync.get("status"), status.get("health", {}).get("status"))
            right = found == ("Synced", health) and commit in ("", sync.get("revision"))
            return status if right else None

        return wait_until(
            f"the Application {name} is Synced and {health}",
            reached,
            timeout_s=READY_S,
            log=lambda: json.dumps(self.application(name), indent=1)[-6000:],
        )

    def health(self, application: str, kind: str, name: str) -> tuple[str, str]:
        """Return health and message that Argo CD has for an object, by our script."""
        resources = self.application(application).get("resources", [])
        found: Any = next(it for it in resources if (it["kind"], it["name"]) == (kind, name))
        return found["health"]["status"], found["health"].get("message", "")


@pytest.fixture(scope="module")
def followed(product: Product) -> Iterator[Followed]:
    """Lend Argo CD, which has brought the product in place of Helm."""
    product.uninstall()
    product.make_namespace(TEAM)
    digest = product.make_artifact(TEAM)
    script = yaml.safe_load((GITOPS / "argocd-cm.yaml").read_text(encoding="utf-8"))["data"]
    with argocd(product.cluster, settings=script) as repository:
        for name in ("isochrone", "isochrone-crds"):
            shutil.copytree(REPOSITORY / "charts" / name, repository.folder / "charts" / name)
        followed = Followed(product=product, repository=repository, digest=digest)
        write_applications(followed)
        yield followed
    product.remove_namespace(TEAM, wait=False)
    # Whose definitions are Argo CD's now: Helm's would conflict with them.
    definitions = REPOSITORY / "charts" / "isochrone-crds" / "files"
    product.kubectl("delete", f"--filename={definitions}", "--ignore-not-found", timeout_s=120)


def write_applications(followed: Followed) -> None:
    """Write the example's Applications into the repository: its address, and the images built here."""
    folder = followed.repository.folder / "examples" / "gitops" / "argocd" / "applications"
    folder.mkdir(parents=True)
    for file in sorted((GITOPS / "applications").glob("*.yaml")):
        text = file.read_text(encoding="utf-8").replace(ADDRESS, followed.repository.url)
        application = yaml.safe_load(text)
        helm = application["spec"]["source"].get("helm", {})
        if "valuesObject" in helm:
            helm["valuesObject"] = {**followed.product.chart_values(), "test": {"enabled": False}}
        (folder / file.name).write_text(yaml.safe_dump(application), encoding="utf-8")


ADDRESS: Final = "https://git.example.org/ml/isochrone.git"


def service(name: str, target: str, floor: str = "0") -> Manifest:
    objectives = {"latency": {"target": target, "percentile": "99"}, "accuracyFloor": floor}
    return service_manifest(TEAM, name, 2.0, objectives=objectives)


def test_the_charts_and_what_a_team_declares_become_synced_and_healthy(followed: Followed) -> None:
    followed.declare(service(SERVICE, "900ms"), message="the first")
    root = (GITOPS / "root.yaml").read_text(encoding="utf-8")
    kubectl = followed.product.kubectl
    kubectl.apply(root.replace(ADDRESS, followed.repository.url))

    followed.wait("isochrone-crds", "Healthy")
    followed.wait("isochrone", "Healthy")
    measured(followed)
    followed.wait("photo-tags", "Healthy")

    assert followed.health("photo-tags", "InferenceService", SERVICE) == (
        "Healthy",
        "Serving: planned, loaded and reachable",
    )
    followed.wait("isochrone-root", "Healthy")


def measured(followed: Followed) -> None:
    """Declare what the variant takes, in place of the Job that would measure it."""
    kubectl = followed.product.kubectl
    wait_until(
        "Argo CD has applied the variant",
        lambda: kubectl("get", "modelvariant", VARIANT, "--namespace", TEAM) != "",
        timeout_s=READY_S,
    )
    patch = json.dumps({"status": declared_status(pools=[POOL])})
    words = ("patch", "modelvariant", VARIANT, "--namespace", TEAM, "--subresource=status")
    kubectl(*words, "--type=merge", f"--patch={patch}")


@contextmanager
def undisturbed(followed: Followed) -> Iterator[None]:
    """Check that Argo CD found nothing to do inside the block, on any of its Applications."""
    names = ("isochrone-crds", "isochrone", "photo-tags")
    before = {name: last_operation(followed, name) for name in names}
    yield
    for name in names:
        assert followed.application(name)["sync"]["status"] == "Synced", name
        assert last_operation(followed, name) == before[name], name


def last_operation(followed: Followed, name: str) -> str:
    """Return when Argo CD last changed something; empty where it found everything as declared."""
    finished: str = followed.application(name).get("operationState", {}).get("finishedAt", "")
    return finished


def test_it_stays_synced_while_the_operator_works(followed: Followed) -> None:
    objects = followed.objects
    with undisturbed(followed):
        # The operator heals what somebody deletes, and Argo CD compares all the while.
        gateway = ("deployment", "isochrone-gateway", "--namespace", TEAM)
        before = objects.kubectl.path(*gateway, path="{.metadata.uid}")
        objects.kubectl("delete", *gateway)
        compared = followed.application("photo-tags")["reconciledAt"]
        wait_until(
            "the operator has made it anew",
            lambda: objects.kubectl.path(*gateway, path="{.metadata.uid}") not in {"", before},
            timeout_s=READY_S,
        )
        objects.kubectl(
            *("rollout", "status", *gateway, f"--timeout={READY_S:.0f}s"),
            timeout_s=READY_S + 10,
        )
        objects.wait("inferenceservice", SERVICE, "Ready", timeout_s=READY_S)
        wait_until(
            "Argo CD has compared again",
            lambda: followed.application("photo-tags")["reconciledAt"] > compared,
            timeout_s=READY_S,
        )
        followed.wait("photo-tags", "Healthy")


def test_a_commit_that_changes_an_objective_is_followed(followed: Followed) -> None:
    commit = followed.declare(service(SERVICE, "800ms"), message="faster")

    followed.wait("photo-tags", "Healthy", commit=commit)

    plan: Any = followed.product.kubectl.get("splan", "isochrone", "--namespace", TEAM)
    (planned,) = plan["spec"]["services"]
    assert planned["objectives"]["latency"]["target"] == "800ms"


def test_what_is_infeasible_is_degraded_with_its_reason(followed: Followed) -> None:
    services = (service(SERVICE, "800ms"), service(IMPOSSIBLE, "800ms", floor="0.9"))
    commit = followed.declare(*services, message="too much")

    followed.wait("photo-tags", "Degraded", commit=commit)

    health, message = followed.health("photo-tags", "InferenceService", IMPOSSIBLE)
    assert health == "Degraded"
    assert message.startswith("InfeasibleAccuracy: ")
    assert followed.health("photo-tags", "InferenceService", SERVICE)[0] == "Healthy"


def test_what_a_commit_removes_is_pruned_and_nothing_of_it_is_left(followed: Followed) -> None:
    commit = followed.declare(message="no services")

    followed.wait("photo-tags", "Healthy", commit=commit)

    objects = followed.objects
    assert objects.names("infsvc") == ()
    managed = "--selector=app.kubernetes.io/managed-by=isochrone"
    for kind in ("deployments", "pods", "services", "secrets", "servingplans"):
        wait_until(
            f"no {kind} of ours is left",
            lambda kind=kind: objects.names(kind, managed) == (),  # type: ignore[misc]
            timeout_s=READY_S,
        )


def test_deleting_the_root_takes_away_all_but_the_definitions(followed: Followed) -> None:
    kubectl = followed.product.kubectl
    bounded = f"--timeout={READY_S:.0f}s"
    words = ("applications.argoproj.io", "isochrone-root", f"--namespace={ARGOCD}", bounded)
    kubectl("delete", *words, timeout_s=READY_S + 10)

    for kind, namespace in (
        ("applications.argoproj.io", ARGOCD),
        ("deployments", SYSTEM),
        ("models.isochrone.dev", TEAM),
    ):
        assert kubectl("get", kind, f"--namespace={namespace}", "--output=name") == "", kind
    kinds = kubectl("api-resources", "--api-group=isochrone.dev", "--output=name").split()
    assert len(kinds) == 6
