"""Fixtures of the product's end-to-end tests; `conftest` takes them over.

Each installs what it needs once a session, and an earlier session's images are used again.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from isochrone_cluster.client_tools import Helm, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_e2e.grounds import IMAGES, TAG, Ground, LocalGround, NamedGround
from isochrone_e2e.install import Product, install_crds
from isochrone_e2e.waiting import Objects

STEADY: Final = "steady"
"""Name of the service that many tests share, and of its namespace."""
STEADY_RATE: Final = 60
"""Requests per second that it declares for its peak; twice as many take one executor more."""


@pytest.fixture(scope="session")
def with_crds(kubectl: Kubectl, helm: Helm) -> Kubectl:
    """Return kubectl on a cluster that serves our kinds, installed by their chart."""
    install_crds(helm)
    return kubectl


@pytest.fixture(scope="session")
def product(
    request: pytest.FixtureRequest,
    local_cluster: Cluster | None,
    kubeconfig: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Product]:
    """Isochrone, built from this tree, installed by its charts, uninstalled at the end.

    In a cluster that somebody named: of the images that its nodes can pull.

    With the image that builds variants, gigabytes, only where a test of the session asks for it.
    """
    fixtures = {name for it in request.session.items for name in getattr(it, "fixturenames", ())}
    torch = "torch_product" in fixtures
    scratch = tmp_path_factory.mktemp("product")
    ground: Ground | None
    if local_cluster is not None:
        ground = LocalGround.built(local_cluster, torch=torch)
    else:
        ground = NamedGround.named(kubeconfig)
        if ground is None:
            pytest.skip(f"needs images that the named cluster can pull: set {IMAGES} and {TAG}")
    product = Product(ground=ground, torch=torch, scratch=scratch)
    product.install()
    yield product
    if isinstance(ground, NamedGround):
        ground.clear()
    elif local_cluster is not None and local_cluster.kept:
        sys.stderr.write("the cluster is kept, and so is what is installed in it\n")
        return
    product.uninstall()


@pytest.fixture(scope="session")
def torch_product(product: Product) -> Product:
    """Isochrone with the image that builds variants, brought to the nodes once."""
    return product


@pytest.fixture(scope="session")
def steady(product: Product) -> Iterator[Objects]:
    """Lend the service ``steady`` of synthetic executors; tests leave it as they found it: Ready."""
    product.apply_synthetic(STEADY, services=(STEADY,), peak_rate=STEADY_RATE)
    objects = Objects(kubectl=product.kubectl, namespace=STEADY)
    objects.wait("inferenceservice", STEADY, "Ready", timeout_s=300)
    yield objects
    product.remove_namespace(STEADY, wait=False)
