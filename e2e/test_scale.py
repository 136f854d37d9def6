"""Many services at once: each is decided on, and all of it goes again.

`make bench-operator` does the same at full size, 1,000 services in 50 namespaces, and publishes what it takes.
"""

import sys

import pytest

from isochrone_e2e.crowd import gather
from isochrone_e2e.install import Product

pytestmark = [pytest.mark.extended, pytest.mark.usefixtures("cluster")]


def test_many_services_in_many_namespaces_are_decided_on(product: Product) -> None:
    crowd = gather(product, namespaces=10, each=20)

    sys.stdout.write(f"{crowd}\n")
    assert crowd.reasons == {"Feasible": crowd.services}
    # A status is written when it changed and not otherwise: a few times for each service, whatever
    # the number of looks.
    statuses = crowd.writes["status InferenceService"]
    assert crowd.services <= statuses <= 6 * crowd.services
