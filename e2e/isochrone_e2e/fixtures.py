"""Fixtures of the product's end-to-end tests; `conftest` takes them over.

Each installs what it needs once a session, and an earlier session's images are used again.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from isochrone_cluster.client_tools import Helm, Kubectl
from isochrone_cluster.cluster import Cluster
from isochrone_e2e.install import Product, build_images, install_crds


@pytest.fixture(scope="session")
def with_crds(kubectl: Kubectl, helm: Helm) -> Kubectl:
    """Return kubectl on a cluster that serves our kinds, installed by their chart."""
    install_crds(helm)
    return kubectl


@pytest.fixture(scope="session")
def product(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Isochrone, built from this tree, installed by its charts, uninstalled at the end.

    Without the image that builds variants: enough for synthetic ones.
    """
    scratch = tmp_path_factory.mktemp("product")
    tags = build_images(cluster, torch=False)
    product = Product(cluster=cluster, torch=False, tags=tags, scratch=scratch)
    product.install()
    yield product
    if cluster.kept:
        sys.stderr.write("the cluster is kept, and so is what is installed in it\n")
        return
    product.uninstall()


@pytest.fixture(scope="session")
def torch_product(product: Product) -> Product:
    """Isochrone with the image that builds variants: gigabytes, brought to the nodes once."""
    tags = build_images(product.cluster, torch=True)
    whole = replace(product, torch=True, tags=tags)
    whole.install()
    return whole
