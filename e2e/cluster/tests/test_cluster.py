"""The local cluster itself: whether it is a Kubernetes that the other tests can rely on."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from isochrone_cluster import image_archive, images
from isochrone_cluster.client_tools import Json, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import ClusterError, wait_until
from isochrone_cluster.images import ImageStore

NAMESPACE: Final = "cluster-test"
PROBE: Final = Path(__file__).parents[1] / "probe"
IMAGE: Final = "localhost/isochrone/probe:test"
READY_S: Final = 60.0

RESTRICTED: Final[dict[str, Json]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def inside(cluster: Cluster) -> Iterator[Kubectl]:
    """Lend kubectl on a cluster with the probe's image and a namespace for restricted pods."""
    cluster.images.build(PROBE / "Dockerfile", tag=IMAGE, context=PROBE)
    cluster.images.load(IMAGE, cluster.nodes)
    namespace: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    cluster.kubectl.apply(json.dumps(namespace))
    yield cluster.kubectl
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", timeout_s=120.0)


def container(*command: str, resources: dict[str, Json] | None = None) -> dict[str, Json]:
    """Return a restricted container of the probe's image; without ``command`` it serves."""
    return {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": RESTRICTED,
        **({"command": list(command)} if command else {}),
        **({"resources": resources} if resources is not None else {}),
    }


def run_pod(
    kubectl: Kubectl,
    name: str,
    *command: str,
    node: str | None = None,
    resources: dict[str, Json] | None = None,
) -> None:
    """Make a pod; it is not restarted when it ends."""
    pinned: dict[str, Json] = {"kubernetes.io/hostname": node} if node is not None else {}
    pod: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": pinned,
            "containers": [container(*command, resources=resources)],
        },
    }
    kubectl.apply(json.dumps(pod))


def wait_pod(kubectl: Kubectl, name: str, what: str) -> None:
    kubectl(
        "wait",
        f"--namespace={NAMESPACE}",
        f"--for={what}",
        f"pod/{name}",
        "--timeout=60s",
        timeout_s=70,
    )


def in_pod(kubectl: Kubectl, name: str, *command: str) -> str:
    return kubectl("exec", f"--namespace={NAMESPACE}", name, "--", *command)


@pytest.fixture(scope="module")
def service(inside: Kubectl) -> str:
    """Return the address of a Service over two restricted pods, one on each node."""
    labels: dict[str, Json] = {"app": "web"}
    spread: dict[str, Json] = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    web = container() | {
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "ports": [{"containerPort": 8080}],
    }
    deployment: dict[str, Json] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "topologySpreadConstraints": [spread],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [web],
                },
            },
        },
    }
    balanced: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    items: dict[str, Json] = {"apiVersion": "v1", "kind": "List", "items": [deployment, balanced]}
    inside.apply(json.dumps(items))
    where = f"--namespace={NAMESPACE}"
    inside("rollout", "status", where, "deployment/web", "--timeout=60s", timeout_s=70)
    return inside.path("service", where, "web", path="{.spec.clusterIP}")


def answers(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/", timeout=5) as page:
        return bytes(page.read())


def test_both_nodes_are_ready_and_run_the_version_that_was_built(cluster: Cluster) -> None:
    cluster.wait_nodes()
    path = "{range .items[*]}{.metadata.name} {.status.nodeInfo.kubeletVersion}{'\\n'}{end}"
    names = [node.name for node in cluster.nodes]
    shown = dict(line.split() for line in cluster.kubectl.path("nodes", path=path).splitlines())
    assert {name: shown.get(name) for name in names} == {"node-1": "v1.34.4", "node-2": "v1.34.4"}
    assert json.loads(cluster.kubectl("get", "--raw=/version"))["gitVersion"] == "v1.34.4"


def test_a_service_answers_the_host_from_pods_on_both_nodes(service: str) -> None:
    seen: set[bytes] = set()

    def both() -> bool:
        seen.add(answers(service))
        return seen == {b"node-1", b"node-2"}

    wait_until("both nodes answer", both, timeout_s=READY_S)


def test_a_pod_finds_the_service_by_name_and_its_log_and_shell_are_reached(
    inside: Kubectl, service: str
) -> None:
    assert service
    where = f"--namespace={NAMESPACE}"
    pods = inside.path("pods", where, "--selector=app=web", path="{.items[*].metadata.name}")
    url = f"http://web.{NAMESPACE}.svc.cluster.local/"
    program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
    for pod in pods.split():  # one on each node: DNS and Services work on both
        assert in_pod(inside, pod, "python3", "-c", program).strip() in {"node-1", "node-2"}
        assert "listening" in inside("logs", where, pod)


def test_a_pod_that_is_not_restricted_is_refused_where_that_is_enforced(inside: Kubectl) -> None:
    loose = container() | {"securityContext": {"privileged": True}}
    pod: dict[str, Json] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose", "namespace": NAMESPACE},
        "spec": {"containers": [loose]},
    }
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
        inside.apply(json.dumps(pod))


def test_a_container_beyond_its_memory_limit_is_killed(inside: Kubectl) -> None:
    hog = ("python3", "-c", "x = bytearray(256 << 20); print(len(x))")
    run_pod(inside, "hog", *hog, resources={"limits": {"memory": "64Mi"}})
    wait_pod(inside, "hog", "jsonpath={.status.phase}=Failed")
    path = "{.status.containerStatuses[0].state.terminated.reason}"
    assert inside.path("pod", f"--namespace={NAMESPACE}", "hog", path=path) == "OOMKilled"


def cpus(kubectl: Kubectl, pod: str) -> set[int]:
    """Return the CPUs that the pod's processes may run on."""
    status = in_pod(kubectl, pod, "cat", "/proc/self/status").splitlines()
    row = next(line for line in status if line.startswith("Cpus_allowed_list:"))
    found: set[int] = set()
    for part in row.split()[1].split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def test_whole_cpus_are_exclusive_on_the_node_with_the_static_policy(inside: Kubectl) -> None:
    whole: dict[str, Json] = {"limits": {"cpu": "1", "memory": "64Mi"}}
    run_pod(inside, "owner", node="node-2", resources=whole)
    run_pod(inside, "sharer", node="node-2")
    run_pod(inside, "elsewhere", node="node-1", resources=whole)
    for name in ("owner", "sharer", "elsewhere"):
        wait_pod(inside, name, "condition=Ready")
    owned = cpus(inside, "owner")
    assert len(owned) == 1
    wait_until(
        "the other pods of the node leave the CPU",
        lambda: not owned & cpus(inside, "sharer"),
        timeout_s=READY_S,
    )
    assert len(cpus(inside, "elsewhere")) > 1
    for name in ("owner", "sharer", "elsewhere"):
        inside("delete", "pod", f"--namespace={NAMESPACE}", name)


def test_an_offered_resource_is_scheduled_and_counted(cluster: Cluster, inside: Kubectl) -> None:
    gpu: dict[str, Json] = {"limits": {"nvidia.com/gpu": 1}}
    cluster.offer("node-1", "nvidia.com/gpu", 1)
    run_pod(inside, "with-gpu", resources=gpu)
    wait_pod(inside, "with-gpu", "condition=Ready")
    run_pod(inside, "without-gpu", resources=gpu)
    wait_pod(inside, "without-gpu", "condition=PodScheduled=False")
    inside("delete", "pod", f"--namespace={NAMESPACE}", "with-gpu", "without-gpu")
    cluster.offer("node-1", "nvidia.com/gpu", 0)


def test_an_image_is_imported_again_only_when_it_changed(cluster: Cluster, tmp_path: Path) -> None:
    told: list[str] = []
    store = ImageStore(progress=told.append)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\nENV CHANGED=1\n")
    tag = "localhost/isochrone/probe:changes"
    first = store.build(tmp_path / "Dockerfile", tag=tag, context=tmp_path)
    store.load(tag, cluster.nodes)
    told.clear()
    store.load(tag, cluster.nodes)
    assert told == []
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\nENV CHANGED=2\n")
    assert store.build(tmp_path / "Dockerfile", tag=tag, context=tmp_path) != first
    digests = {node.name: node.images()[tag] for node in cluster.nodes}
    store.load(tag, cluster.nodes)
    assert all(node.images()[tag] != digests[node.name] for node in cluster.nodes)


# The probe's image is on the nodes: the same base, another layer on it.
@pytest.mark.usefixtures("inside")
def test_of_an_image_only_the_layers_that_nodes_lack_are_sent(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nCOPY Dockerfile /\n")
    tag = "localhost/isochrone/probe:layers"
    identifier = cluster.images.build(tmp_path / "Dockerfile", tag=tag, context=tmp_path)
    held = cluster.nodes[0].layers()
    folder = tmp_path / "archive"
    folder.mkdir()

    archive = image_archive.write(images.buildah, identifier, tag=tag, held=held, folder=folder)

    sizes = [cast("dict[str, int]", held[content])["size"] for content in archive.left_out]
    assert 0 < archive.size < sum(sizes) / 100
    cluster.images.load(tag, cluster.nodes)
    assert {node.images()[tag] for node in cluster.nodes} == {archive.digest}


def test_a_build_reaches_the_package_index_and_leaves_no_setting_of_the_host(
    cluster: Cluster, tmp_path: Path
) -> None:
    steps = "python3 -m venv /v && /v/bin/pip install --quiet tomli && test -s /etc/pip.conf"
    (tmp_path / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\nRUN {steps}\n")
    tag = "localhost/isochrone/probe:index"
    cluster.images.build(tmp_path / "Dockerfile", tag=tag, context=tmp_path)
    script = "cat /etc/pip.conf /etc/uv/uv.toml; env"
    made = images.buildah("from", tag).strip()
    shown = images.buildah("run", "--isolation", "chroot", made, "sh", "-c", script)
    images.buildah("rm", made)
    assert "cert" not in shown.lower()
    assert "index" not in shown.lower()


def test_a_node_without_kubelet_and_containerd_is_noticed_and_comes_back(
    cluster: Cluster, inside: Kubectl, service: str
) -> None:
    node = cluster.node("node-2")
    where = f"--namespace={NAMESPACE}"
    path = "{.items[?(@.spec.nodeName=='node-2')].status.podIP}"
    address = inside.path("pods", where, "--selector=app=web", path=path)
    node.fail()
    try:
        # The containers are alive, and answer on their own address until the node is given up.
        assert answers(f"{address}:8080") == b"node-2"
        cluster.wait_nodes("node-2", ready=False)
        wait_until(
            "the Service leaves the lost node out",
            lambda: {answers(service) for _ in range(20)} == {b"node-1"},
            timeout_s=READY_S,
        )
    finally:
        node.recover()
    cluster.wait_nodes()


@pytest.mark.parametrize("part", ["etcd", "kube-apiserver"])
def test_what_was_stored_survives_the_control_planes_death(
    cluster: Cluster, inside: Kubectl, part: str
) -> None:
    where = f"--namespace={NAMESPACE}"
    inside("create", "configmap", where, part, "--from-literal=kept=yes")
    if part == "etcd":
        cluster.restart_etcd(hard=True)
    else:
        cluster.restart_api_server(hard=True)
    assert inside.path("configmap", where, part, path="{.data.kept}") == "yes"
    cluster.wait_nodes()
