"""Parts that only some tests use, on the local cluster: Karpenter, KWOK, Argo CD."""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from isochrone_cluster import kwok
from isochrone_cluster.argocd import NAMESPACE as APPLICATIONS
from isochrone_cluster.argocd import argocd
from isochrone_cluster.client_tools import Json
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import wait_until
from isochrone_cluster.karpenter import InstanceType, karpenter

pytestmark = pytest.mark.extended

READY_S: Final = 60.0


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """Lend a namespace."""
    cluster.kubectl("create", "namespace", "parts-test")
    yield "parts-test"
    cluster.kubectl("delete", "namespace", "parts-test", "--wait=true", timeout_s=120.0)


POOL: Final = """
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: gpu}
spec:
  disruption:
    consolidationPolicy: WhenEmpty
    consolidateAfter: 0s
    budgets: [{nodes: "100%"}]  # both at once: a round takes Karpenter up to 25 s
  template:
    spec:
      expireAfter: Never
      nodeClassRef: {group: karpenter.kwok.sh, kind: KWOKNodeClass, name: test}
      taints: [{key: example.com/gpu, effect: NoSchedule}]
      requirements:
      - {key: node.kubernetes.io/instance-type, operator: In, values: [g5.xlarge]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: on-gpu, namespace: parts-test}
spec:
  replicas: 2
  selector: {matchLabels: {app: on-gpu}}
  template:
    metadata: {labels: {app: on-gpu}}
    spec:
      tolerations: [{operator: Exists}]
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: main
        image: nowhere
        resources: {limits: {nvidia.com/gpu: 1}}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""


def test_karpenter_makes_the_nodes_that_pods_need_and_removes_them(
    cluster: Cluster, namespace: str
) -> None:
    kubectl = cluster.kubectl
    machine = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    sold = InstanceType(name="g5.xlarge", dollars=1.006, resources=machine)
    chosen = "--selector=node.kubernetes.io/instance-type=g5.xlarge"

    def count() -> int:
        return len(kubectl.path("nodes", chosen, path="{.items[*].metadata.name}").split())

    with karpenter(cluster, [sold]):
        kubectl.apply(POOL)
        where = f"--namespace={namespace}"
        kubectl("rollout", "status", where, "deployment/on-gpu", "--timeout=60s", timeout_s=70)
        assert count() == 2
        kubectl("delete", "deployment", where, "on-gpu")
        wait_until("Karpenter removes the nodes", lambda: count() == 0, timeout_s=READY_S)
        made = kwok.add_nodes(cluster, 5, prefix="vast", capacity={"cpu": "64"}, labels={})
        assert len(made) == 5
    assert kubectl.path("nodes", path="{.items[*].metadata.name}").split() == ["node-1", "node-2"]


def test_argo_cd_follows_a_repository(cluster: Cluster, namespace: str) -> None:
    """Takes minutes where Argo CD is yet to be built."""
    kubectl = cluster.kubectl

    def config(value: str) -> str:
        return f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: followed}}, data: {{is: {value}}}}}"

    application: dict[str, Json] = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": "followed",
            "namespace": APPLICATIONS,
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],
        },
    }
    with argocd(cluster, settings={}) as repository:
        application["spec"] = {
            "project": "default",
            "source": {"repoURL": repository.url, "path": ".", "targetRevision": "main"},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
            "syncPolicy": {"automated": {"prune": True, "selfHeal": True}},
        }
        for value in ("first", "second"):
            (repository.folder / "config.yaml").write_text(config(value), encoding="ascii")
            commit = repository.publish(value)
            kubectl.apply(json.dumps(application))

            def followed(commit: str = commit) -> bool:
                path = "{.status.sync.status} {.status.health.status} {.status.sync.revision}"
                where = ("applications.argoproj.io", f"--namespace={APPLICATIONS}", "followed")
                return kubectl.path(*where, path=path) == f"Synced Healthy {commit}"

            wait_until("Argo CD follows the commit", followed, timeout_s=2 * READY_S)
            where = ("configmap", f"--namespace={namespace}", "followed")
            assert kubectl.path(*where, path="{.data.is}") == value
    left = kubectl("get", "configmaps", f"--namespace={namespace}", "--output=name")
    assert "followed" not in left
