"""The charts' values: helm finds no fault with the charts, and refuses values that cannot be meant."""

import json
import re
from collections.abc import Iterator
from typing import cast

import pytest
import yaml
from chart_rendering import CHARTS, EVERYTHING, Helm, Json, Object, Refused, at, of_kind

from isochrone_operator.settings import parse_settings

DIGEST = "sha256:" + "0123456789abcdef" * 4
CHART_NAMES = ("isochrone", "isochrone-crds")


@pytest.mark.parametrize("chart", CHART_NAMES)
def test_helm_finds_no_fault(helm: Helm, chart: str) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHARTS / chart)


REFUSED: tuple[tuple[str, Object, str], ...] = (
    ("unknown key", {"replicas": 2}, "replicas"),
    ("unknown key inside", {"operator": {"replica": 2}}, "/operator"),
    ("wrong type", {"operator": {"replicas": "2"}}, "/operator/replicas"),
    ("too few", {"operator": {"replicas": 0}}, "/operator/replicas"),
    ("no choice", {"operator": {"logLevel": "verbose"}}, "/operator/logLevel"),
    ("no duration", {"operator": {"debounce": "soon"}}, "/operator/debounce"),
    ("no rate", {"operator": {"requestsPerSecond": 0}}, "/operator/requestsPerSecond"),
    ("digest of no form", {"images": {"operator": {"digest": "sha256:abc"}}}, "/images/operator/digest"),
    ("digest without algorithm", {"images": {"runtime": {"digest": "0" * 64}}}, "/images/runtime/digest"),
    ("digest in the name", {"images": {"runtime": {"repository": f"a@{DIGEST}"}}}, "/images/runtime/repository"),
    ("no tag", {"images": {"runtimeTorch": {"tag": "a b"}}}, "/images/runtimeTorch/tag"),
    ("no pull policy", {"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
    ("no namespace", {"watchNamespaces": ["Photos"]}, "/watchNamespaces/0"),
    ("a namespace twice", {"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    ("namespaces as text", {"watchNamespaces": "photos"}, "/watchNamespaces"),
    ("no size", {"store": {"size": "large"}}, "/store/size"),
    ("no access mode", {"store": {"accessMode": "ReadWriteSome"}}, "/store/accessMode"),
    ("no network", {"networkPolicy": {"apiServer": {"cidrs": ["10.0.0.1"]}}}, "/networkPolicy/apiServer/cidrs/0"),
    ("no port", {"networkPolicy": {"apiServer": {"ports": [70000]}}}, "/networkPolicy/apiServer/ports/0"),
    ("unknown engine", {"engines": {"terraform": True}}, "/engines"),
    (
        "engine in namespaced mode",
        {"watchNamespaces": ["photos"], "engines": {"karpenter": True}},
        "/engines/karpenter",
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "place"), [it[1:] for it in REFUSED], ids=[it[0] for it in REFUSED]
)
def test_values_that_cannot_be_meant_are_refused_by_name(
    helm: Helm, values: Object, place: str
) -> None:
    with pytest.raises(Refused, match=re.escape(place)):
        helm.text(values=values)


def test_the_crds_chart_refuses_what_it_does_not_know(helm: Helm) -> None:
    with pytest.raises(Refused, match="keeps"):
        helm.text("isochrone-crds", {"keeps": True})


def schemas(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    for name, child in cast("dict[str, Object]", schema.get("properties", {})).items():
        yield f"{path}.{name}", child
        yield from schemas(child, f"{path}.{name}")


@pytest.mark.parametrize("chart", CHART_NAMES)
def test_every_value_is_described_and_bounded(chart: str) -> None:
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text(encoding="utf-8"))

    for path, child in schemas(schema):
        assert child.get("description"), f"{path}: say what it is"
        if child.get("properties"):
            assert child["additionalProperties"] is False, f"{path}: takes unknown keys"


def leaves(values: Json, path: str = "") -> Iterator[str]:
    if isinstance(values, dict) and values:
        for name, child in values.items():
            yield from leaves(child, f"{path}.{name}")
    else:
        yield path


@pytest.mark.parametrize("chart", CHART_NAMES)
def test_every_value_that_the_schema_knows_has_a_default(chart: str) -> None:
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text(encoding="utf-8"))
    given = set(leaves(values))

    known = {p for p, child in schemas(schema) if not child.get("properties")} - {".global"}
    # What only a resources block of Kubernetes' may hold need not be there.
    known = {path for path in known if not path.startswith(".operator.resources.")}

    assert sorted(path for path in known if path not in given and not _inside(path, given)) == []


def _inside(path: str, given: set[str]) -> bool:
    """Tell whether a value below or above ``path`` is given: a free-form one may be anything."""
    return any(other.startswith(f"{path}.") for other in given)


@pytest.mark.parametrize("mode", ["default", "everything", "namespaced"])
def test_the_operator_understands_every_setting(mode: str, request: pytest.FixtureRequest) -> None:
    objects: list[Object] = request.getfixturevalue(mode)
    (deployment,) = of_kind(objects, "Deployment")
    variables = cast(
        "list[dict[str, str]]", at(deployment, "spec", "template", "spec", "containers", 0, "env")
    )
    environment = {it["name"]: it.get("value", "from-the-pod") for it in variables}

    settings = parse_settings([], environment)

    assert settings.watch_namespaces == (("photos", "digits") if mode == "namespaced" else ())
    assert settings.karpenter is settings.cluster_api is (mode == "everything")
    assert settings.namespace == settings.identity == "from-the-pod"
    assert settings.images.runtime_torch == "isochrone-runtime-torch:0.1.0"


def test_the_operator_has_no_setting_that_the_chart_does_not_set(
    default: list[Object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--help"], {})
    known = set(re.findall(r"\$(ISOCHRONE_[A-Z_]+)", capsys.readouterr().out))
    (deployment,) = of_kind(default, "Deployment")
    variables = cast(
        "list[dict[str, str]]", at(deployment, "spec", "template", "spec", "containers", 0, "env")
    )

    assert {it["name"] for it in variables} == known


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "isochrone-operator:0.1.0"),
        ({"tag": "nightly"}, "isochrone-operator:nightly"),
        ({"digest": DIGEST}, f"isochrone-operator@{DIGEST}"),
        ({"tag": "0.1.0", "digest": DIGEST}, f"isochrone-operator:0.1.0@{DIGEST}"),
    ],
)
def test_images_are_named_by_tag_or_digest(helm: Helm, image: Object, reference: str) -> None:
    objects = helm.objects(values={"images": {"registry": "example.org/team", "operator": image}})

    (deployment,) = of_kind(objects, "Deployment")
    container = at(deployment, "spec", "template", "spec", "containers", 0)
    assert at(container, "image") == f"example.org/team/{reference}"


def test_no_template_looks_at_a_cluster_or_draws_a_random_value() -> None:
    impure = re.compile(
        r"\b(lookup|rand\w+|gen(CA|SelfSigned|Signed|Private)\w*|uuidv4|now|htpasswd)\b"
    )
    found = {
        str(path.relative_to(CHARTS)): match[0]
        for path in CHARTS.rglob("templates/**/*")
        if path.is_file()
        for action in re.findall(r"{{(.*?)}}", path.read_text(encoding="utf-8"), re.DOTALL)
        if not action.lstrip("- ").startswith("/*") and (match := impure.search(action))
    }
    assert found == {}


def test_the_same_values_render_to_the_same_bytes(helm: Helm) -> None:
    assert helm.text(values=EVERYTHING) == helm.text(values=EVERYTHING)
