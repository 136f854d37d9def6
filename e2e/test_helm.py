"""The life of a release: the guide's installation, the chart's test, upgrade, rollback, uninstall.

The chart before is the latest one in this repository's history that differs from the tree's.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import yaml

from isochrone_cluster.failures import ClusterError, run
from isochrone_cluster.places import REPOSITORY
from isochrone_e2e.fixtures import STEADY
from isochrone_e2e.guides import Guide
from isochrone_e2e.install import INSTALL_S, RELEASE, SYSTEM, Product
from isochrone_e2e.load import Load, Tally
from isochrone_e2e.manifests import model_manifests, service_manifest
from isochrone_e2e.waiting import Objects

pytestmark = pytest.mark.extended

LEFT: Final = "left-behind"
CHART: Final = "charts/isochrone"


@pytest.fixture(scope="module")
def product_again(product: Product) -> Iterator[Product]:
    """Lend the product to tests that take it away; bring it back at the end."""
    yield product
    product.install()


@pytest.fixture(scope="module")
def chart_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the chart before this tree's; skip where this clone does not go back so far."""
    try:
        commits = run(["git", "log", "--format=%H", "--", CHART], folder=REPOSITORY).split()
    except ClusterError as error:
        pytest.skip(f"no history to take the chart before from: {error}")
    for commit in commits:
        same = ["git", "--no-optional-locks", "diff", "--quiet", commit, "--", CHART]
        if subprocess.run(same, cwd=REPOSITORY, check=False).returncode == 0:
            continue
        packed = subprocess.run(
            ["git", "archive", commit, CHART], cwd=REPOSITORY, check=True, capture_output=True
        )
        folder = tmp_path_factory.mktemp("before")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        return folder / CHART
    pytest.skip("this clone's history holds no other chart")


def steady_load(product: Product, steady: Objects) -> Load:
    return product.load(steady, STEADY, rate=10, seconds=300)


def check(tally: Tally, steady: Objects) -> None:
    """Check that nobody noticed; where somebody did, tell whether a gateway went, and why."""
    assert tally.failed == 0, f"{tally}\n{steady.account('inferenceservice', STEADY)}"
    assert tally.answered > tally.sent * 0.9, tally


def upgrade(product: Product, chart: Path, marked: str) -> None:
    """Upgrade to ``chart`` with the product's values; ``marked`` makes new pods of it."""
    values = product.chart_values()
    # The chart before refuses what it does not know.
    known = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))["operator"]
    given = cast_object(values["operator"])
    values["operator"] = {
        **{name: it for name, it in given.items() if name in known},
        "podAnnotations": {"example.com/chart": marked},
    }
    file = product.scratch / f"{marked}.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    bounded = ("--wait", f"--timeout={INSTALL_S:.0f}s")
    words = ("upgrade", RELEASE, str(chart), "--namespace", SYSTEM, f"--values={file}", *bounded)
    product.helm(*words, timeout_s=INSTALL_S + 30)


def cast_object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def running_chart(product: Product) -> str:
    """Return which chart the operator's pods are of, as ``upgrade`` marked them."""
    path = "{.spec.template.metadata.annotations['example\\.com/chart']}"
    return product.kubectl.path(
        "deployment", "isochrone-operator", "--namespace", SYSTEM, path=path
    )


def test_the_guide_installs_it_and_the_charts_own_test_passes(
    product: Product, tmp_path: Path
) -> None:
    values = {"values.yaml": yaml.safe_dump(product.chart_values())}
    guide = Guide("install.md", product.kubectl, tmp_path, values)

    said = guide.read("The two charts")

    assert guide.unread == set()
    assert "Phase:          Succeeded" in said or "Succeeded" in said


def test_upgrade_from_the_chart_before_and_rollback_to_it_are_not_noticed(
    product_again: Product, steady: Objects, chart_before: Path
) -> None:
    upgrade(product_again, chart_before, "before")

    with steady_load(product_again, steady) as load:
        upgrade(product_again, REPOSITORY / CHART, "now")
        assert running_chart(product_again) == "now"
        edit(steady, "62")
        bounded = ("--wait", f"--timeout={INSTALL_S:.0f}s")
        product_again.helm("rollback", RELEASE, "--namespace", SYSTEM, *bounded)
        assert running_chart(product_again) == "before"
        edit(steady, "61")
        tally = load.tally()

    check(tally, steady)


def edit(steady: Objects, peak_rate: str) -> None:
    """Change the service's load; wait until an operator has planned for it."""
    patch = json.dumps({"spec": {"load": {"peakRate": peak_rate}}})
    words = ("patch", "infsvc", STEADY, "--namespace", STEADY, "--type=merge")
    steady.kubectl(*words, f"--patch={patch}")
    steady.wait("inferenceservice", STEADY, "Ready", timeout_s=90)


def test_uninstalling_leaves_what_serves_and_wedges_nothing(
    product_again: Product, steady: Objects
) -> None:
    kubectl = product_again.kubectl
    kubectl("create", "namespace", LEFT)
    product_again.apply(*model_manifests(LEFT, "0" * 64), service_manifest(LEFT, "one", 1.0))
    left = Objects(kubectl=kubectl, namespace=LEFT)
    left.wait("inferenceservice", "one", "PlanAccepted", "False", timeout_s=60)

    with steady_load(product_again, steady) as load:
        product_again.uninstall()
        # Without an operator, what people declared is still theirs to keep, to change and to delete.
        assert "steady" in kubectl("get", "infsvc", STEADY, "--namespace", STEADY)
        kubectl("delete", "infsvc", "one", "--namespace", LEFT, "--timeout=30s")
        kubectl("delete", "namespace", LEFT, "--timeout=90s", timeout_s=100)
        product_again.wait_answers(steady, STEADY)
        tally = load.tally()

    check(tally, steady)
    kinds = kubectl("api-resources", "--api-group=isochrone.dev", "--output=name").split()
    assert len(kinds) == 6
    for kind in kinds:
        path = "{.items[*].metadata.finalizers}"
        assert kubectl.path(kind, "--all-namespaces", path=path) == "", kind


def test_installed_for_some_namespaces_it_serves_those_and_may_touch_no_other(
    product_again: Product, steady: Objects
) -> None:
    confined: dict[str, object] = {"watchNamespaces": [STEADY], "engines": {"karpenter": False}}
    replace(product_again, values=confined).install()
    kubectl = product_again.kubectl
    kubectl("create", "namespace", LEFT)
    product_again.apply(*model_manifests(LEFT, "0" * 64), service_manifest(LEFT, "one", 1.0))
    account = f"--as=system:serviceaccount:{SYSTEM}:isochrone-operator"

    edit(steady, "63")

    assert may(product_again, account, "patch", "inferenceservices.isochrone.dev/status", STEADY)
    for verb, kind in (("list", "inferenceservices.isochrone.dev"), ("list", "secrets")):
        assert not may(product_again, account, verb, kind, LEFT)
    # The other namespace's service was there before that edit, and nobody has looked at it.
    other = Objects(kubectl=kubectl, namespace=LEFT)
    assert other.status("inferenceservice", "one")["observedGeneration"] == -1

    product_again.install()
    other.wait("inferenceservice", "one", "PlanAccepted", "False", timeout_s=60)
    kubectl("delete", "namespace", LEFT, "--timeout=90s", timeout_s=100)
    edit(steady, "61")


def may(product: Product, account: str, verb: str, kind: str, namespace: str) -> bool:
    """Return whether the operator's account may do it, as the API server says."""
    resource, _, subresource = kind.partition("/")
    words = ("auth", "can-i", verb, resource, account, "--namespace", namespace)
    part = (f"--subresource={subresource}",) if subresource else ()
    try:
        return product.kubectl(*words, *part).strip() == "yes"
    except ClusterError as error:
        if str(error).splitlines()[-1].startswith("no"):  # said with exit status 1
            return False
        raise
