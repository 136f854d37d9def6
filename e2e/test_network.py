"""Who may talk to whom, with every NetworkPolicy enforced: what ours let through, and what they stop.

A connection that a policy stops is ``silent``. Each time another that differs in one thing is ``open``.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest

from isochrone_cluster.failures import wait_until
from isochrone_cluster.places import API_SERVER, CONTROL
from isochrone_e2e.install import SYSTEM, Product
from isochrone_e2e.manifests import Manifest
from isochrone_e2e.probes import Outcome, stand_in, taking_connections, tried, tried_here
from isochrone_e2e.waiting import Objects
from isochrone_operator import names
from isochrone_operator.children.networks import builder_policy, fetcher_policy, gateway_policy
from isochrone_operator.settings import ApiServer

# Its network enforces policies; another's may not.
pytestmark = pytest.mark.usefixtures("cluster")

HERE: Final = "network"
"""A namespace of stand-ins, where policies come and go."""
ELSEWHERE: Final = "strangers"
"""A namespace without any policy."""
READY_S: Final = 60.0

API: Final = API_SERVER.removeprefix("https://")
DNS: Final = f"{CONTROL.address}:53"
"""The cluster's DNS takes TCP too."""
PORTS: Final = {"web": 8080, "other": 8081, "secure": 6443}
METADATA: Final = "169.254.169.254"
"""Where a cloud's machine asks who it is."""


@pytest.fixture(scope="module")
def pods(product: Product) -> Iterator[dict[str, str]]:
    """Lend stand-ins in two namespaces; return their addresses by name."""
    near, far = (node.name for node in product.cluster.nodes)
    image = product.ground.image("runtime")
    builder = our(names.COMPONENT_BUILDER)

    def of(namespace: str, name: str, node: str, labels: Mapping[str, str]) -> Manifest:
        return stand_in(namespace, name, image=image, ports=PORTS, labels=labels, node=node)

    made = [
        of(HERE, "server", near, {"app": "server"}),
        of(HERE, "friend", near, {"app": "friend"}),
        of(HERE, "other", far, {"app": "other"}),
        of(HERE, "gateway", near, our(names.COMPONENT_GATEWAY)),
        of(HERE, "builder", near, builder | {names.LABEL_STEP: names.STEP_BUILD}),
        of(HERE, "fetcher", near, builder | {names.LABEL_STEP: names.STEP_FETCH}),
        of(ELSEWHERE, "stranger", far, {"app": "friend"}),
        of(ELSEWHERE, "impostor", near, our(names.COMPONENT_GATEWAY)),
    ]
    for namespace in (HERE, ELSEWHERE):
        product.remove_namespace(namespace)
        product.kubectl("create", "namespace", namespace)
    product.apply(*made)
    found: dict[str, str] = {}
    for namespace in (HERE, ELSEWHERE):
        where = ("pods", "--namespace", namespace)
        bounded = (f"--timeout={READY_S:.0f}s", "--all")
        product.kubectl("wait", "--for=condition=Ready", *where, *bounded, timeout_s=READY_S + 10)
        path = "{range .items[*]}{.metadata.name}={.status.podIP} {end}"
        found |= dict(it.split("=") for it in product.kubectl.path(*where, path=path).split())
    yield found
    for namespace in (HERE, ELSEWHERE):
        product.remove_namespace(namespace, wait=False)


def our(component: str) -> dict[str, str]:
    return {names.LABEL_NAME: names.APP, names.LABEL_COMPONENT: component}


@contextmanager
def policies(product: Product, *manifests: Manifest) -> Iterator[None]:
    """Have ``manifests`` of policies in the stand-ins' namespace inside the block."""
    product.apply(*manifests)
    try:
        yield
    finally:
        product.kubectl("delete", "networkpolicies", "--all", "--namespace", HERE)


def from_stand_in(product: Product, pod: str, targets: Mapping[str, str]) -> dict[str, Outcome]:
    namespace = ELSEWHERE if pod in {"stranger", "impostor"} else HERE
    return tried(product.kubectl, namespace, pod, "main", targets)


def seen_by(
    product: Product, callers: Sequence[str], targets: Mapping[str, str]
) -> dict[str, dict[str, Outcome]]:
    """Return what each of ``callers``, stand-ins, sees of ``targets``: all ask at a time."""
    with ThreadPoolExecutor(len(callers)) as side:
        return dict(
            zip(
                callers,
                side.map(lambda it: from_stand_in(product, it, targets), callers),
                strict=True,
            )
        )


def policy(name: str, app: str, **spec: list[Any]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": HERE},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }


# The network itself: if it let everything through, the tests below would prove nothing.


def test_a_policy_stops_what_it_does_not_allow_whichever_way_it_comes(
    product: Product, pods: dict[str, str]
) -> None:
    targets = {name: f"{pods['server']}:{port}" for name, port in PORTS.items()}
    callers = ("friend", "other", "stranger")
    everything = dict.fromkeys(PORTS, "open")
    nothing = dict.fromkeys(PORTS, "silent")

    def become(wanted: Mapping[str, Mapping[str, str]]) -> None:
        wait_until(
            f"they see {wanted}",
            lambda: seen_by(product, callers, targets) == wanted,
            timeout_s=READY_S,
        )

    assert seen_by(product, callers, targets) == dict.fromkeys(callers, everything)
    with policies(product, policy("closed", "server", policyTypes=["Ingress"])):
        become(dict.fromkeys(callers, nothing))
        assert tried_here(targets) == nothing
        # The kubelet's own probes come from the node.
        assert ready(product, "server")

        friends = {"podSelector": {"matchLabels": {"app": "friend"}}}
        by_name = [{"from": [friends], "ports": [{"port": "web"}]}]
        product.apply(policy("friends", "server", ingress=by_name))
        become({"friend": nothing | {"web": "open"}, "other": nothing, "stranger": nothing})

        labels = {"kubernetes.io/metadata.name": ELSEWHERE}
        both = friends | {"namespaceSelector": {"matchLabels": labels}}
        product.apply(policy("strangers", "server", ingress=[{"from": [both]}]))
        become({"friend": nothing | {"web": "open"}, "other": nothing, "stranger": everything})
    become(dict.fromkeys(callers, everything))


def test_a_policy_names_what_a_pod_may_reach_by_the_others_names_of_ports_and_by_ranges(
    product: Product, pods: dict[str, str]
) -> None:
    targets = {
        f"{whom}'s {port}": f"{pods[whom]}:{number}"
        for whom in ("server", "stranger")
        for port, number in PORTS.items()
    }
    to = [{"podSelector": {"matchLabels": {"app": "server"}}}]
    by_name: Manifest = {"to": to, "ports": [{"port": "web"}]}
    by_range: Manifest = {"to": to, "ports": [{"port": PORTS["other"], "endPort": 9000}]}
    allowed = {"server's web": "open", "server's other": "open"}
    with policies(
        product, policy("outward", "friend", policyTypes=["Egress"], egress=[by_name, by_range])
    ):
        wait_until(
            "the policy holds",
            lambda: (
                from_stand_in(product, "friend", targets)
                == dict.fromkeys(targets, "silent") | allowed
            ),
            timeout_s=READY_S,
        )


def ready(product: Product, pod: str) -> bool:
    path = "{.status.conditions[?(@.type=='Ready')].status}"
    return product.kubectl.path("pod", pod, "--namespace", HERE, path=path) == "True"


# What the operator gives to the Jobs that build and to gateways, on stand-ins that bear their labels.


def test_a_job_that_builds_reaches_nothing_and_one_that_fetches_all_but_the_metadata_service(
    product: Product, pods: dict[str, str]
) -> None:
    ours = (builder_policy(HERE, ()), fetcher_policy(HERE, ()))
    with (
        taking_connections(product.cluster.nodes[0], METADATA, 80) as metadata,
        policies(product, *ours),
    ):
        targets = {
            "a web server": f"{pods['stranger']}:{PORTS['web']}",
            "the API server": API,
            "DNS": DNS,
            "metadata": metadata,
        }
        everything = dict.fromkeys(targets, "open")
        nothing = dict.fromkeys(targets, "silent")

        def built() -> bool:
            return from_stand_in(product, "builder", targets) == nothing

        wait_until("the policies hold", built, timeout_s=READY_S)
        assert seen_by(product, ("fetcher", "friend"), targets) == {
            "fetcher": everything | {"metadata": "silent"},
            "friend": everything,
        }
        inward = {name: f"{pods[name]}:{PORTS['web']}" for name in ("builder", "fetcher", "server")}
        assert from_stand_in(product, "stranger", inward) == {
            "builder": "silent",
            "fetcher": "silent",
            "server": "open",
        }


def test_where_the_api_server_is_named_a_gateway_reaches_no_other_by_its_port(
    product: Product, pods: dict[str, str]
) -> None:
    targets = {"the API server": API, "another": f"{pods['stranger']}:{PORTS['secure']}"}
    named = ApiServer(cidrs=(f"{CONTROL.address}/32",), ports=(6443,))
    assert from_stand_in(product, "gateway", targets) == dict.fromkeys(targets, "open")
    with policies(product, gateway_policy(HERE, (), named)):
        wanted = {"the API server": "open", "another": "silent"}
        wait_until(
            "the policy holds",
            lambda: from_stand_in(product, "gateway", targets) == wanted,
            timeout_s=READY_S,
        )


# What runs.


@pytest.fixture
def running(steady: Objects) -> dict[str, Any]:
    """Return one pod of each component of the service ``steady``."""
    found: dict[str, Any] = {}
    for component in (names.COMPONENT_GATEWAY, names.COMPONENT_EXECUTOR):
        chosen = f"--selector={names.LABEL_NAME}={names.APP},{names.LABEL_COMPONENT}={component}"
        listed: Any = steady.kubectl.get("pods", "--namespace", steady.namespace, chosen)
        found[component] = next(it for it in listed["items"] if "podIP" in it["status"])
    return found


def address(pod: Any, port: int) -> str:  # noqa: ANN401 - as kubectl shows it
    return f"{pod['status']['podIP']}:{port}"


def from_running(product: Product, pod: Any, targets: Mapping[str, str]) -> dict[str, Outcome]:  # noqa: ANN401
    metadata, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
    return tried(product.kubectl, metadata["namespace"], metadata["name"], container, targets)


def test_gateways_take_requests_from_anywhere_and_are_scraped_by_pods(
    product: Product, pods: dict[str, str], running: dict[str, Any]
) -> None:
    assert pods
    gateway = running[names.COMPONENT_GATEWAY]
    targets = {
        "requests": address(gateway, names.HTTP_PORT),
        "metrics": address(gateway, names.HEALTH_PORT),
        "the agent": address(gateway, names.AGENT_PORT),
    }

    reached = {"requests": "open", "metrics": "open", "the agent": "silent"}
    assert from_stand_in(product, "stranger", targets) == reached
    assert tried_here(targets) == reached | {"metrics": "silent"}


def test_gateways_reach_executors_names_and_the_api_server_alone(
    product: Product, pods: dict[str, str], running: dict[str, Any]
) -> None:
    executor = running[names.COMPONENT_EXECUTOR]
    targets = {
        "executor": address(executor, names.EXECUTOR_PORT),
        "the API server": API,
        "DNS": DNS,
        "its port elsewhere": f"{pods['stranger']}:{PORTS['secure']}",
        "anybody": f"{pods['stranger']}:{PORTS['web']}",
    }
    reached = from_running(product, running[names.COMPONENT_GATEWAY], targets)
    assert reached == dict.fromkeys(targets, "open") | {"anybody": "silent"}


def test_executors_are_reached_by_their_gateways_alone_and_reach_nothing(
    product: Product, steady: Objects, pods: dict[str, str], running: dict[str, Any]
) -> None:
    executor = running[names.COMPONENT_EXECUTOR]
    inward = {"executor": address(executor, names.EXECUTOR_PORT)}
    for pod in (
        "stranger",
        "impostor",
    ):  # the latter bears a gateway's labels, in its own namespace
        assert from_stand_in(product, pod, inward) == {"executor": "silent"}
    assert tried_here(inward) == {"executor": "silent"}
    gateway = running[names.COMPONENT_GATEWAY]
    assert from_running(product, gateway, inward) == {"executor": "open"}
    outward = {
        "anybody": f"{pods['stranger']}:{PORTS['web']}",
        "the API server": API,
        "DNS": DNS,
        "gateway": address(gateway, names.HTTP_PORT),
    }
    assert from_running(product, executor, outward) == dict.fromkeys(outward, "silent")
    product.wait_answers(steady, "steady")


def test_the_operator_is_scraped_by_pods_and_reaches_names_and_the_api_server_alone(
    product: Product, pods: dict[str, str], running: dict[str, Any]
) -> None:
    chosen = f"--selector={names.LABEL_COMPONENT}=operator"
    listed: Any = product.kubectl.get("pods", "--namespace", SYSTEM, chosen)
    operator = next(it for it in listed["items"] if "podIP" in it["status"])
    inward = {
        "metrics": address(operator, names.OPERATOR_METRICS_PORT),
        "health": address(operator, names.OPERATOR_HEALTH_PORT),
    }
    assert from_stand_in(product, "stranger", inward) == {"metrics": "open", "health": "silent"}
    assert tried_here(inward) == dict.fromkeys(inward, "silent")
    outward = {
        "the API server": API,
        "DNS": DNS,
        "anybody": f"{pods['stranger']}:{PORTS['web']}",
        "gateway": address(running[names.COMPONENT_GATEWAY], names.HTTP_PORT),
        "executor": address(running[names.COMPONENT_EXECUTOR], names.EXECUTOR_PORT),
    }
    assert from_running(product, operator, outward) == dict.fromkeys(outward, "silent") | {
        "the API server": "open",
        "DNS": "open",
    }
