"""What the operator is told when it starts: flags, each with a variable of the environment.

Read by ``main`` and by ``reconcile``, which gets the whole value. The chart sets the variables.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from isochrone.units import SECOND, Bytes, Nanoseconds, parse_bytes, parse_duration

PREFIX: Final = "ISOCHRONE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """References of the images that pods run. ``pull_policy`` as Kubernetes spells it."""

    operator: str
    runtime: str
    runtime_torch: str
    pull_policy: str
    pull_secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreClaim:
    """The PersistentVolumeClaim that holds a namespace's artifacts."""

    storage_class: str
    size: str
    access_mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Builders:
    """What a build Job's pod asks for, and how much memory it may take at most."""

    cpu: str
    memory: str
    memory_limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """Where the API server may be reached by our pods; no ``cidrs``: anywhere, on these ``ports``."""

    cidrs: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one operator runs.

    ``watch_namespaces`` is empty when it watches all of them. ``debounce_ns``: how long it waits for
    more changes before it plans. ``requests_per_second``: of writes to the API server, at most.
    ``dwell_ns``: how long a plan that holds stays, before a cheaper one may replace it.
    ``shrink_after_ns``: how long a service must have needed less than half of what it is sized for beyond
    its declared load, before it gives that up.
    ``rollout_ns``: how long a new plan may take to become ready before it is rolled back.
    ``approval_ns``: how long a plan waits for a person who must approve it.
    ``pod_ip``: an address of this pod, whose family is the first of the cluster's.
    """

    namespace: str
    identity: str
    pod_ip: str
    watch_namespaces: tuple[str, ...]
    images: Images
    store: StoreClaim
    cache_size: str
    gateway_replicas: int
    gateway_cpu: str
    gateway_memory: str
    builders: Builders
    api_server: ApiServer
    cluster_domain: str
    karpenter: bool
    cluster_api: bool
    debounce_ns: Nanoseconds
    dwell_ns: Nanoseconds
    shrink_after_ns: Nanoseconds
    rollout_ns: Nanoseconds
    approval_ns: Nanoseconds
    requests_per_second: float
    log_level: str

    @property
    def cache_bytes(self) -> Bytes:
        """Bound of one executor pod's cache of artifacts."""
        return parse_bytes(self.cache_size)

    @property
    def ip_family(self) -> str:
        """The first family of the cluster's addresses, as an EndpointSlice calls it."""
        return "IPv6" if ":" in self.pod_ip else "IPv4"

    @property
    def any_address(self) -> str:
        """The host to listen on so that everybody who knows a pod's address reaches it."""
        return "::" if self.ip_family == "IPv6" else "0.0.0.0"  # noqa: S104 - pods serve others


_OPTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    ("namespace", "isochrone-system", "namespace that the operator runs in"),
    ("identity", "", "name of this replica (default: the host's name)"),
    ("pod-ip", "", "address of this pod (default: pods have IPv4 addresses)"),
    ("watch-namespaces", "", "only these namespaces, separated by commas (default: all)"),
    ("operator-image", "isochrone-operator:latest", "image of the operator and the agents"),
    ("runtime-image", "isochrone-runtime:latest", "image of gateways and light executors"),
    ("runtime-torch-image", "isochrone-runtime-torch:latest", "image of torch executors, builders"),
    ("image-pull-policy", "IfNotPresent", "of all pods"),
    ("image-pull-secrets", "", "names, separated by commas"),
    ("store-class", "", "storage class of the artifact store's claims (default: the cluster's)"),
    ("store-size", "20Gi", "size of the artifact store of a namespace"),
    ("store-access-mode", "ReadWriteMany", "access mode of the artifact store"),
    ("cache-size", "8Gi", "artifacts that one executor pod may hold on its node"),
    ("gateway-replicas", "2", "gateways of a cell: one leads, the others wait"),
    ("gateway-cpu", "1", "cores of a gateway"),
    ("gateway-memory", "1Gi", "memory of a gateway"),
    ("builder-cpu", "500m", "cores that a build Job asks for; it uses what is idle"),
    ("builder-memory", "1Gi", "memory that a build Job asks for"),
    ("builder-memory-limit", "12Gi", "memory that a build Job may take at most"),
    ("api-server-cidrs", "", "where the API server is, separated by commas (default: anywhere)"),
    ("api-server-ports", "443,6443", "its ports, after any translation, separated by commas"),
    ("cluster-domain", "cluster.local", "DNS domain of the cluster"),
    ("karpenter", "false", "whether to make Karpenter NodePools"),
    ("cluster-api", "false", "whether to scale MachineDeployments"),
    ("debounce", "200ms", "how long to wait for more changes before planning"),
    ("dwell", "10m", "how long a plan that holds stays before a cheaper one may replace it"),
    (
        "shrink-after",
        "15m",
        "how long less must be needed before what traffic asked for is given up",
    ),
    ("rollout", "10m", "how long a new plan may take to become ready before it is rolled back"),
    (
        "approval",
        "24h",
        "how long a plan waits for its approval, before a fresh one takes its place",
    ),
    ("requests-per-second", "50", "writes to the API server, at most"),
    ("log-level", "info", "debug, info, warning or error"),
)


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings that ``arguments`` and ``ISOCHRONE_…`` variables spell.

    Exits with status 2, and says what is wrong, when they cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_operator", description="Keep every InferenceService's promises."
    )
    for name, default, text in _OPTIONS:
        variable = PREFIX + name.upper().replace("-", "_")
        shown = environment.get(variable, default)
        parser.add_argument(f"--{name}", default=shown, help=f"{text} (${variable})", metavar="…")
    given = parser.parse_args(arguments)
    try:
        return _settings(vars(given))
    except ValueError as error:
        parser.error(str(error))


def _settings(given: Mapping[str, str]) -> Settings:
    settings = Settings(
        namespace=given["namespace"],
        identity=given["identity"] or os.uname().nodename,
        pod_ip=given["pod_ip"],
        watch_namespaces=_names(given["watch_namespaces"]),
        images=Images(
            operator=given["operator_image"],
            runtime=given["runtime_image"],
            runtime_torch=given["runtime_torch_image"],
            pull_policy=_one_of("image-pull-policy", given, ("Always", "IfNotPresent", "Never")),
            pull_secrets=_names(given["image_pull_secrets"]),
        ),
        store=StoreClaim(
            storage_class=given["store_class"],
            size=given["store_size"],
            access_mode=given["store_access_mode"],
        ),
        cache_size=given["cache_size"],
        gateway_replicas=int(given["gateway_replicas"]),
        gateway_cpu=given["gateway_cpu"],
        gateway_memory=given["gateway_memory"],
        builders=Builders(
            cpu=given["builder_cpu"],
            memory=given["builder_memory"],
            memory_limit=given["builder_memory_limit"],
        ),
        api_server=ApiServer(
            cidrs=tuple(str(ip_network(it)) for it in _names(given["api_server_cidrs"])),
            ports=tuple(int(it) for it in _names(given["api_server_ports"])),
        ),
        cluster_domain=given["cluster_domain"],
        karpenter=_one_of("karpenter", given, ("true", "false")) == "true",
        cluster_api=_one_of("cluster-api", given, ("true", "false")) == "true",
        debounce_ns=parse_duration(given["debounce"]),
        dwell_ns=parse_duration(given["dwell"]),
        shrink_after_ns=parse_duration(given["shrink_after"]),
        rollout_ns=parse_duration(given["rollout"]),
        approval_ns=parse_duration(given["approval"]),
        requests_per_second=float(given["requests_per_second"]),
        log_level=_one_of("log-level", given, ("debug", "info", "warning", "error")),
    )
    if settings.gateway_replicas < 1:
        message = "gateway-replicas: at least 1"
        raise ValueError(message)
    if settings.requests_per_second <= 0 or settings.rollout_ns < SECOND:
        message = "requests-per-second must be positive, and rollout at least 1s"
        raise ValueError(message)
    if not settings.api_server.ports or not all(
        0 < it < 1 << 16 for it in settings.api_server.ports
    ):
        message = "api-server-ports: at least one, each from 1 to 65535"
        raise ValueError(message)
    if parse_bytes(settings.builders.memory) > parse_bytes(settings.builders.memory_limit):
        message = "builder-memory: at most builder-memory-limit"
        raise ValueError(message)
    return settings


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _one_of(name: str, given: Mapping[str, str], allowed: tuple[str, ...]) -> str:
    value = given[name.replace("-", "_")]
    if value not in allowed:
        message = f"{name}: {value!r} is none of {', '.join(allowed)}"
        raise ValueError(message)
    return value
