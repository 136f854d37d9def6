"""Manifests: what is wrong is said at once, with place, reason and remedy."""

from pathlib import Path

import pytest
import yaml

from isochrone.api.documents import DEPTH_MAX, DOCUMENT_NODES_MAX, SOURCE_CHARACTERS_MAX
from isochrone.api.kinds import KINDS
from isochrone.api.manifests import ManifestProblemsError, Manifests, Source, load
from isochrone.demand import OverloadPolicy
from isochrone.errors import ManifestError

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"

MODEL = """\
apiVersion: isochrone.dev/v1alpha1
kind: Model
metadata: {name: photo-tags, namespace: photos}
spec:
  task: image-classification
  inputs: [{name: image, datatype: UINT8, shape: [-1, 4]}]
  outputs: [{name: scores, datatype: FP32, shape: [-1, 10]}]
  accuracy: {metric: top1}
  architectures:
  - {name: lite0, artifact: {uri: "file:a.pt2", format: torch-export}, accuracy: "0.751"}
"""
SERVICE = """\
apiVersion: isochrone.dev/v1alpha1
kind: InferenceService
metadata: {name: tags, namespace: photos}
spec:
  modelRef: {name: photo-tags}
  objectives:
    latency: {target: 60ms, percentile: "99"}
    accuracyFloor: "0.74"
"""
POOL = """\
apiVersion: isochrone.dev/v1alpha1
kind: AcceleratorPool
metadata: {name: cpu-small}
spec:
  accelerator: {vendor: cpu, cores: 1, memory: 2Gi}
  node: {pricePerHour: "0.05"}
  limits: {maxNodes: 4}
  local: {}
"""
GOOD = (Source("model.yaml", MODEL), Source("pools.yaml", POOL))


def refused(*sources: Source) -> list[str]:
    with pytest.raises(ManifestProblemsError) as caught:
        load(sources)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def messages(text: str) -> list[str]:
    """Return what is said of a service, without the file's and the object's name."""
    prefix = "services.yaml:"
    found = refused(*GOOD, Source("services.yaml", text))
    assert all(line.startswith(prefix) for line in found)
    return [line.partition("InferenceService tags, ")[2] for line in found]


def test_good_manifests_load() -> None:
    loaded = load([*GOOD, Source("services.yaml", SERVICE)])

    assert isinstance(loaded, Manifests)
    assert [model.identity for model in loaded.models] == ["photos/photo-tags"]
    assert [service.identity for service in loaded.services] == ["photos/tags"]
    assert [pool.metadata.name for pool in loaded.pools] == ["cpu-small"]
    assert loaded.services[0].spec.overload.policy is OverloadPolicy.REJECT
    assert loaded.services[0].spec.load is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "latency: {target",
            "latncy: {target",
            [
                "spec.objectives.latency: required field `latency` is missing (How fast)",
                "spec.objectives.latncy: unknown field `latncy`; did you mean `latency`?",
            ],
        ),
        (
            "objectives:",
            "colour: blue\n  objectives:",
            [
                (
                    "spec.colour: unknown field `colour`; known here: modelRef, objectives, priority, "
                    "load, overload, scaling, placement, approval, approvedPlan, podTemplate, suspend"
                )
            ],
        ),
        (
            '"0.74"',
            "0.74",
            ['spec.objectives.accuracyFloor: 0.74 is a number to YAML: write it in quotes, "0.74"'],
        ),
        (
            '"0.74"',
            '"74"',
            [
                (
                    'spec.objectives.accuracyFloor: "74" is no ratio: write a decimal from 0 to 1, '
                    'such as "0.75"'
                )
            ],
        ),
        (
            '"0.74"',
            '".74"',
            ['spec.objectives.accuracyFloor: ".74" is no ratio: write it like "0.75"'],
        ),
        (
            '"0.74"',
            "[0.74]",
            [
                (
                    "spec.objectives.accuracyFloor: a single value is expected: ratio: "
                    'write it like "0.75"'
                )
            ],
        ),
        (
            "60ms",
            "60",
            [
                (
                    'spec.objectives.latency.target: "60" is no duration: write a number and a unit, '
                    'such as "50ms" or "1.5s"'
                )
            ],
        ),
        (
            "60ms",
            "60 ms",
            [
                (
                    'spec.objectives.latency.target: "60 ms" is no duration: write a number and a '
                    'unit, such as "50ms" or "1.5s"'
                )
            ],
        ),
        (
            "60ms",
            "true",
            [
                (
                    "spec.objectives.latency.target: true is a boolean, where duration is expected: "
                    'write it like "50ms"'
                )
            ],
        ),
        (
            '"99"',
            "p99",
            [
                (
                    'spec.objectives.latency.percentile: "p99" is no decimal: write digits, such as '
                    '"99.9"'
                )
            ],
        ),
        (
            '"99"',
            '"100"',
            [
                (
                    'spec.objectives.latency.percentile: "100" is no percentile: write a decimal from '
                    '50 to below 100, such as "99.9"'
                )
            ],
        ),
        (
            "  objectives:",
            "  overload: {policy: Rejct}\n  objectives:",
            [
                (
                    'spec.overload.policy: "Rejct" is not allowed; did you mean `Reject`? '
                    "allowed: Reject, Degrade, BestEffort"
                )
            ],
        ),
        (
            "  objectives:",
            "  approval: 3\n  objectives:",
            ["spec.approval: 3 is not allowed; allowed: Automatic, Manual"],
        ),
        (
            "  objectives:",
            '  priority: "4"\n  objectives:',
            [
                (
                    'spec.priority: "4" is text, where a whole number is expected: write it without '
                    "quotes"
                )
            ],
        ),
        (
            "  objectives:",
            "  priority: 2.5\n  objectives:",
            ["spec.priority: 2.5 is given, where a whole number is expected"],
        ),
        (
            "  objectives:",
            "  priority: 5000\n  objectives:",
            ["spec.priority: 5000 is too large: at most 1000"],
        ),
        (
            "  objectives:",
            "  suspend: yes\n  objectives:",
            [
                (
                    "spec.suspend: yes is a word to some YAML readers and true to others: "
                    'write true, or "yes" in quotes'
                )
            ],
        ),
        (
            "  objectives:",
            "  priority: 010\n  objectives:",
            [
                (
                    "spec.priority: 010 is not the same number to every YAML reader: "
                    "write it in plain decimal digits, or in quotes if it is text"
                )
            ],
        ),
        (
            "  objectives:",
            "  load:\n  objectives:",
            ["spec.load: no value is given: write one ({} for an empty block), or remove it"],
        ),
        (
            "  objectives:",
            "  placement: {pools: cpu-small}\n  objectives:",
            [
                (
                    'spec.placement.pools: "cpu-small" is given, where a list (each item on a line '
                    "that begins with `-`) is expected"
                )
            ],
        ),
        (
            "  objectives:",
            "  placement: {pools: [cpu-small, cpu-smal]}\n  objectives:",
            [
                (
                    'spec.placement.pools[1]: there is no AcceleratorPool "cpu-smal"; '
                    "did you mean `cpu-small`?"
                )
            ],
        ),
        (
            "  objectives:",
            "  placement: {pools: [cpu-small, cpu-small]}\n  objectives:",
            [
                (
                    'spec.placement.pools: the value "cpu-small" stands twice (items 0 and 1): '
                    "write it once"
                )
            ],
        ),
        (
            "  objectives:",
            "  placement: local\n  objectives:",
            ['spec.placement: "local" is given, where a block of fields is expected'],
        ),
        (
            "  objectives:",
            '  load: {expectedRate: "1", peakRate: "2", batchSizes: []}\n  objectives:',
            ["spec.load.batchSizes: too few items: at least 1"],
        ),
        (
            "modelRef: {name: photo-tags}",
            "modelRef: {name: photo-tag}",
            [
                (
                    'spec.modelRef.name: there is no Model "photo-tag" in namespace photos; '
                    "did you mean `photo-tags`?"
                )
            ],
        ),
        (
            "name: tags, namespace: photos",
            "name: tags",
            [
                (
                    'spec.modelRef.name: there is no Model "photo-tags" in namespace default; '
                    "there is one in namespace photos, and references stay within one"
                )
            ],
        ),
        (
            "name: tags,",
            "name: tags, lables: {a: b},",
            ["metadata.lables: unknown field `lables`; did you mean `labels`?"],
        ),
        (
            "name: tags,",
            "name: tags, labels: {a: 1},",
            ['metadata.labels.a: 1 is a number to YAML: write it in quotes, "1"'],
        ),
        (
            "    accuracyFloor",
            '    accuracyFloor: "0.8"\n    accuracyFloor',
            [
                (
                    "spec.objectives.accuracyFloor: `accuracyFloor` stands twice (also on line 9): "
                    "keep one"
                )
            ],
        ),
    ],
)
def test_a_fault_is_named_with_its_place_and_its_remedy(
    old: str, new: str, expected: list[str]
) -> None:
    assert SERVICE.count(old) == 1

    assert messages(SERVICE.replace(old, new)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: photos}\n",
            (
                'a.yaml:1: document 1, Namespace photos, apiVersion: "v1" is not read here: '
                "write apiVersion: isochrone.dev/v1alpha1"
            ),
        ),
        (
            "apiVersion: isochrone.dev/v1alpha1\nkind: InferenceServer\n",
            (
                'a.yaml:2: document 1, InferenceServer, kind: unknown kind "InferenceServer"; '
                "did you mean `InferenceService`?"
            ),
        ),
        (
            "apiVersion: isochrone.dev/v1alpha1\n",
            (
                "a.yaml:1: document 1, kind: it is missing; known: "
                "Model, ModelVariant, AcceleratorPool, InferenceService, ServingPlan, CostBudget"
            ),
        ),
        (
            MODEL.replace("apiVersion: isochrone.dev/v1alpha1\n", ""),
            (
                "a.yaml:1: document 1, Model photo-tags, apiVersion: it is missing: "
                "write apiVersion: isochrone.dev/v1alpha1"
            ),
        ),
        (
            "- a\n- b\n",
            (
                "a.yaml:1: document 1: an object is expected: "
                "apiVersion, kind, metadata and spec, each on its own line"
            ),
        ),
        (
            "a: [\n",
            (
                "a.yaml:2: document 1: no YAML: while parsing a flow node; "
                "expected the node content, but found '<stream end>'"
            ),
        ),
        (
            "a:\n  b: 1\n\tc: 2\n",
            (
                "a.yaml:3: document 1: no YAML: a tab stands where a line is indented: indent it with "
                "spaces"
            ),
        ),
        ("a: \x07\n", "a.yaml:1: document 1: no YAML: the character U+0007 is not allowed"),
        (
            POOL.replace("name: cpu-small", "name: cpu-small, namespace: photos"),
            (
                "a.yaml:3: document 1, AcceleratorPool cpu-small, metadata.namespace: "
                "AcceleratorPool has no namespace: remove the line"
            ),
        ),
        (
            POOL.replace("  local: {}\n", "  local:\n"),
            (
                "a.yaml:8: document 1, AcceleratorPool cpu-small, spec.local: "
                "no value is given: write one ({} for an empty block), or remove it"
            ),
        ),
        (
            POOL.replace("{}", "!!python/object:os.system {}"),
            (
                "a.yaml:8: document 1, AcceleratorPool cpu-small, spec.local: "
                "the tag tag:yaml.org,2002:python/object:os.system is not read: write a plain value"
            ),
        ),
        (
            POOL.replace("local: {}", "local: {}\n  <<: {a: b}"),
            (
                "a.yaml:4: document 1, AcceleratorPool cpu-small, spec: "
                "merge keys (<<) are not read: write the fields out"
            ),
        ),
        (
            POOL.replace("limits: {", "limits: {1: 2, "),
            (
                "a.yaml:7: document 1, AcceleratorPool cpu-small, spec.limits: "
                "the key on line 7 must be text in quotes"
            ),
        ),
    ],
)
def test_what_is_no_object_of_ours_is_said(text: str, expected: str) -> None:
    assert refused(Source("a.yaml", text)) == [expected]


def test_every_problem_of_every_file_is_reported_in_order() -> None:
    first = MODEL.replace("FP32", "FP31") + "---\n" + POOL.replace("2Gi", "2GB")
    second = SERVICE.replace("60ms", "fast") + "---\na: [\n"

    found = refused(Source("first.yaml", first), Source("second.yaml", second))

    assert found == [
        (
            'first.yaml:7: document 1, Model photo-tags, spec.outputs[0].datatype: "FP31" is not '
            "allowed; did you mean `FP32`? allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, "
            "INT32, INT64, FP16, FP32, FP64"
        ),
        (
            "first.yaml:16: document 2, AcceleratorPool cpu-small, spec.accelerator.memory: "
            '"2GB" is no size: write a number and a unit, such as "512Mi" or "24Gi"'
        ),
        (
            "second.yaml:7: document 1, InferenceService tags, spec.objectives.latency.target: "
            '"fast" is no duration: write a number and a unit, such as "50ms" or "1.5s"'
        ),
        (
            "second.yaml:11: document 2: no YAML: while parsing a flow node; "
            "expected the node content, but found '<stream end>'"
        ),
    ]


def test_a_broken_model_is_not_also_said_to_be_missing() -> None:
    found = refused(
        Source("model.yaml", MODEL.replace("top1", "top5")), Source("services.yaml", SERVICE)
    )

    assert [line.partition(":")[0] for line in found] == ["model.yaml"]


def test_the_same_object_twice_is_refused() -> None:
    found = refused(*GOOD, Source("more.yaml", f"# again\n---\n{POOL}"))

    assert found == [
        (
            "more.yaml:5: document 1, AcceleratorPool cpu-small, metadata.name: "
            "the same object stands at pools.yaml:1: keep one of the two"
        )
    ]


def test_a_variant_names_an_architecture_of_its_model() -> None:
    accepted = list(yaml.safe_load_all((HERE / "api_accepted.yaml").read_text("utf-8")))
    variant = next(it for it in accepted if it["kind"] == "ModelVariant")
    variant["spec"]["architecture"] = "lite00"

    found = refused(*GOOD, Source("variant.yaml", yaml.safe_dump(variant)))

    assert [line.partition("spec.")[2] for line in found] == [
        'architecture: Model "photo-tags" has no architecture "lite00"; did you mean `lite0`?'
    ]


def test_namespaced_objects_default_to_the_namespace_default() -> None:
    loaded = load([Source("model.yaml", MODEL.replace(", namespace: photos", ""))])

    assert loaded.models[0].identity == "default/photo-tags"


def test_field_names_are_spelled_as_in_manifests_only() -> None:
    found = messages(SERVICE.replace("accuracyFloor", "accuracy_floor"))

    assert found[-1].endswith("unknown field `accuracy_floor`; did you mean `accuracyFloor`?")


def test_aliases_are_read_and_cannot_blow_a_file_up() -> None:
    shared = POOL.replace("{pricePerHour", "&price {pricePerHour")
    assert load([Source("a.yaml", shared)]).pools[0].spec.node.price_per_hour == "0.05"

    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    assert any(
        f"more than {DOCUMENT_NODES_MAX} values in one document" in line
        for line in refused(Source("bomb.yaml", bomb))
    )


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    found = refused(Source("deep.yaml", "[" * depth + "]" * depth))

    assert any(f"nested too deeply: at most {DEPTH_MAX} levels" in line for line in found)


def test_an_endless_file_is_refused() -> None:
    found = refused(Source("long.yaml", "#" * (SOURCE_CHARACTERS_MAX + 1)))

    assert found == [
        (
            f"long.yaml:1: {SOURCE_CHARACTERS_MAX + 1} characters are too many: "
            f"at most {SOURCE_CHARACTERS_MAX}"
        )
    ]


def test_the_error_is_a_manifest_error() -> None:
    with pytest.raises(ManifestError):
        load([Source("a.yaml", "- a")])


def test_nothing_at_all_is_fine() -> None:
    assert load([]) == load([Source("empty.yaml", "---\n---\n# nothing\n")])


def documents(name: str) -> list[dict[str, object]]:
    return list(yaml.safe_load_all((HERE / name).read_text("utf-8")))


@pytest.mark.parametrize(
    "document", documents("api_refused.yaml"), ids=lambda it: it["metadata"]["name"]
)
def test_a_broken_rule_is_said_as_the_cluster_says_it(
    document: dict[str, dict[str, dict[str, str]]],
) -> None:
    expected = document["metadata"]["annotations"]["refused"]

    found = refused(*GOOD, Source("a.yaml", yaml.safe_dump(document)))

    assert [line.rpartition(f": {expected}")[2] for line in found] == [""]
    kind = KINDS[str(document["kind"])]
    assert expected in str(kind.model_json_schema())


def test_everything_that_people_may_write_is_accepted() -> None:
    loaded = load([Source("a.yaml", (HERE / "api_accepted.yaml").read_text("utf-8"))])

    assert len(loaded.variants) == len(loaded.plans) == len(loaded.budgets) == 1
    again = [
        Source(str(index), yaml.safe_dump(resource.document()))
        for index, resource in enumerate(
            (
                *loaded.models,
                *loaded.variants,
                *loaded.pools,
                *loaded.services,
                *loaded.budgets,
                *loaded.plans,
            )
        )
    ]
    assert load(again) == loaded


@pytest.mark.parametrize(
    "folder",
    sorted(path for path in EXAMPLES.iterdir() if any(path.glob("*.yaml"))),
    ids=lambda it: it.name,
)
def test_every_example_loads(folder: Path) -> None:
    sources = [Source(str(path), path.read_text("utf-8")) for path in sorted(folder.glob("*.yaml"))]

    loaded = load(sources)

    assert loaded.services
    assert loaded.models
