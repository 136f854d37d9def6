"""The cluster that the end-to-end tests run on: the local one, or one that somebody names.

``ISOCHRONE_E2E_KUBECONFIG`` (`make e2e KUBECONFIG=…`) names another cluster; an ambient ``KUBECONFIG`` is not
looked at, lest tests run on a cluster that somebody uses. Without it, the cluster of `make cluster`
serves where it runs, and is left running; else one is started for the session and stopped after.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, cast

import pytest
from _pytest.capture import CaptureManager

from isochrone_cluster import places, requirements, sweep
from isochrone_cluster.client_tools import Helm, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.lifeline import lifeline
from isochrone_e2e.fixtures import product, steady, torch_product, with_crds

__all__ = ["product", "steady", "torch_product", "with_crds"]

NAMED: Final = "ISOCHRONE_E2E_KUBECONFIG"


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return what tells the terminal, past pytest's capture, what takes long."""
    capture = cast("CaptureManager", pytestconfig.pluginmanager.getplugin("capturemanager"))

    def told(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"cluster: {line}\n")
            sys.stderr.flush()

    return told


def named_kubeconfig() -> Path | None:
    """Return the kubeconfig that whoever runs the tests named; None means the local cluster."""
    text = os.environ.get(NAMED)
    return Path(text).expanduser().resolve() if text else None


@pytest.fixture(scope="session")
def local_cluster(say: Callable[[str], None]) -> Iterator[Cluster | None]:
    """Lend the local cluster; None where the tests run on another."""
    named = named_kubeconfig()
    if named is not None and named != places.KUBECONFIG:
        if not named.exists():
            pytest.fail(f"{NAMED} names {named}, which does not exist", pytrace=False)
        yield None
        return
    if reasons := requirements.missing():
        pytest.skip("; ".join(reasons))
    running = Cluster.attach(progress=say)
    if running is not None and running.kept:
        running.children.check()
        yield running
        running.children.check()
        return
    if named is not None:
        pytest.fail(f"{named} is of the local cluster, which does not run: make cluster")
    with lifeline(), ExitStack() as stack:
        cluster = Cluster.start(kept=False, progress=say)
        stack.callback(cluster.stop)
        yield cluster
        cluster.children.check()
    assert sweep.remains() == ()


@pytest.fixture(scope="session")
def cluster(local_cluster: Cluster | None) -> Cluster:
    """Lend the local cluster, for tests that break nodes, build images or read cgroups."""
    if local_cluster is None:
        pytest.skip(f"needs the local cluster, and {NAMED} names another")
    return local_cluster


@pytest.fixture(scope="session")
def kubeconfig(local_cluster: Cluster | None) -> Path:
    """Return the kubeconfig of the cluster that the tests run on, with an administrator's rights."""
    named = named_kubeconfig()
    if local_cluster is not None:
        return local_cluster.kubeconfig
    assert named is not None
    return named


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """Return kubectl on the cluster that the tests run on."""
    return Kubectl(kubeconfig=kubeconfig)


@pytest.fixture(scope="session")
def helm(kubeconfig: Path) -> Helm:
    """Return helm on the cluster that the tests run on."""
    return Helm(kubeconfig=kubeconfig)


SET_UP_S: Final = 2400
"""A test with its fixtures, at most: on a new machine they build images of gigabytes."""

ORDER: Final = (
    # These start clusters of their own.
    "test_cluster_lifecycle.py",
    "test_cluster.py",
    "test_validation.py",
    # These need the nodes' whole CPUs, of which the service that the next ones share would take some.
    "test_photo_tags.py",
    "test_fetch.py",
    "test_written.py",
    "test_pools.py",
    "test_serving.py",
    "test_traffic.py",
    "test_network.py",
    "test_kubectl.py",
    "test_crashes.py",
    "test_scale.py",
    # These take the product away, and bring it back by other hands.
    "test_helm.py",
    "test_gitops.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in their order; raise ``ValueError`` for one that has no place in it."""
    items.sort(key=lambda item: ORDER.index(item.path.name))
    for item in items:
        # Whichever comes first builds what all need.
        item.add_marker(pytest.mark.timeout(SET_UP_S))
