"""Fixtures of the product's end-to-end tests; `conftest` takes them over.

Each installs what it needs once a session, and an earlier session's images are used again.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from isochrone_cluster.client_tools import Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_e2e.install import Product, build_images


@pytest.fixture(scope="session")
def with_crds(kubectl: Kubectl) -> Kubectl:
    """kubectl on a cluster that serves our kinds."""
    crds = Path(__file__).parents[2] / "crds"
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={crds}")
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s", timeout_s=70)
    return kubectl


@pytest.fixture(scope="session")
def product(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Isochrone, built from this tree, installed by its charts, uninstalled at the end."""
    scratch = tmp_path_factory.mktemp("product")
    tags = build_images(cluster, torch=True)
    product = Product(cluster=cluster, torch=True, tags=tags, scratch=scratch)
    product.install()
    yield product
    if cluster.kept:
        sys.stderr.write("the cluster is kept, and so is what is installed in it\n")
        return
    product.uninstall()
