"""The cluster's network: a bridge on the host, a cable to each node, routes to pods and Services.

The far ends of the cables lie in the nodes' namespaces and go with them. Called by ``cluster`` when
it starts, and by ``sweep`` when it cleans.
"""

import json
from pathlib import Path
from typing import Final

from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.places import (
    BRIDGE,
    CONTROL,
    HOST_ADDRESS,
    NODE_RANGE,
    NODES,
    POD_RANGE,
    SERVICE_RANGE,
    NodePlace,
)

FILTER_BRIDGED: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""The kernel's switch, one in each network namespace, that shows bridged packets to packet filters."""
LINKS: Final = (BRIDGE, *(node.link for node in NODES))


def batch(lines: tuple[str, ...], *, beside: int | None = None) -> None:
    """Run ``ip`` with each of ``lines``, in the network namespace of process ``beside``."""
    enter = () if beside is None else ("nsenter", f"--target={beside}", "--net", "--")
    run([*enter, "ip", "-batch", "-"], text="\n".join(lines) + "\n")


def join(node: NodePlace, *, anchor: int) -> None:
    """Lay the cable to ``node``, whose namespaces process ``anchor`` holds, and set its routes."""
    batch(
        (
            f"link add {node.link} type veth peer name eth0 netns {anchor}",
            f"link set {node.link} master {BRIDGE} up",
        )
    )
    others = tuple(
        f"route add {other.pod_range} via {other.address}" for other in NODES if other != node
    )
    batch(
        (
            "link set lo up",
            f"addr add {node.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {HOST_ADDRESS}",
            *others,
        ),
        beside=anchor,
    )
    # What pods of one node say to each other crosses its bridge, and shall pass its filter too.
    forward = f"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > {FILTER_BRIDGED}"
    run(["nsenter", f"--target={anchor}", "--net", "--", "sh", "-ec", forward])


def make_bridge() -> None:
    """Make the bridge and the host's routes to pods and Services.

    Raises ``ClusterError`` when the host already uses one of the cluster's ranges.
    """
    for address_range in (NODE_RANGE, POD_RANGE, SERVICE_RANGE):
        taken = run(["ip", "route", "show", "to", "root", address_range]).strip()
        if taken:
            raise ClusterError(
                f"this machine already routes {address_range}, which is ours: {taken}"
            )
    batch(
        (
            f"link add {BRIDGE} type bridge",
            f"addr add {HOST_ADDRESS}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
            *(f"route add {node.pod_range} via {node.address}" for node in NODES),
            f"route add {SERVICE_RANGE} via {CONTROL.address}",
        )
    )


def present() -> tuple[str, ...]:
    """Return the names of the cluster's links that are on the host."""
    links = json.loads(run(["ip", "-json", "link", "show"]))
    return tuple(sorted(link["ifname"] for link in links if link["ifname"] in LINKS))


def remove() -> None:
    """Remove the cluster's links, and with them the routes. Raises ``ClusterError`` if one stays."""
    for link in present():
        try:
            run(["ip", "link", "delete", link])
        except ClusterError:  # the kernel removed it in between, as its namespace ended
            if link in present():
                raise
    wait_until("the cluster's network links go", lambda: not present(), timeout_s=20.0)
