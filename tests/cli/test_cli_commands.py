"""The command line as a person meets it: commands, exit statuses, exact complaints."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from isochrone.api.manifests import Source, load
from isochrone.catalog import Catalog
from isochrone.demand import Isolation
from isochrone.errors import ManifestError, SetupError
from isochrone.fleet import Engine, Fleet, Pool, Vendor
from isochrone.ids import GroupId, Namespace, PoolId, VariantId
from isochrone.plan import Group, Plan
from isochrone.plan_document import PlanDocument
from isochrone_builder.source_cache import SourceCache
from isochrone_cli.cell import Cell, place
from isochrone_cli.inputs import read_manifests
from isochrone_cli.machine import LOCAL_HOST, Machine, local_host, look
from isochrone_cli.prepare import profiling_cores, unheeded

ROOT = Path(__file__).parents[2]

POOL = Pool(
    id=PoolId("two-cores"),
    vendor=Vendor.CPU,
    product="",
    memory_bytes=1 << 30,
    cores=2,
    accelerators_per_node=1,
    node_price_uph=90_000,
    nodes_min=0,
    nodes_max=4,
    engine=Engine.LOCAL,
)


def isochrone(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isochrone_cli.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def machine(*cores: int) -> Machine:
    return Machine(cores=cores, memory_bytes=1 << 34, processor="a processor")


def plan_with(replicas: int) -> Plan:
    group = Group(
        id=GroupId("g"),
        namespace=Namespace("n"),
        pool=POOL.id,
        variants=(VariantId("n/v"),),
        replicas=replicas,
        isolation=Isolation.SHARED,
    )
    return Plan(revision=1, groups=(group,), services=(), explanations=(), cost_uph=0)


def test_version_names_what_is_installed() -> None:
    ended = isochrone("version")

    assert ended.returncode == 0
    assert ended.stdout.startswith("isochrone ")
    assert "torch " in ended.stdout


def test_an_unknown_command_is_refused_with_the_known_ones() -> None:
    ended = isochrone("upp")

    assert ended.returncode == 2
    assert "demo" in ended.stderr


def test_crds_are_written_and_then_found_in_order(tmp_path: Path) -> None:
    assert isochrone("crds", "--write", str(tmp_path)).returncode == 0
    assert len(list(tmp_path.glob("*.yaml"))) == 6
    assert isochrone("crds", "--check", str(tmp_path)).returncode == 0

    (tmp_path / "isochrone.dev_models.yaml").write_text("kind: Other\n", encoding="utf-8")
    drifted = isochrone("crds", "--check", str(tmp_path))

    assert drifted.returncode == 1
    assert "isochrone.dev_models.yaml" in drifted.stderr
    assert "isochrone crds --write" in drifted.stderr


def test_crds_print_one_stream_of_documents() -> None:
    assert isochrone("crds").stdout.count("kind: CustomResourceDefinition") == 6


def test_a_folder_of_definitions_that_is_not_there_is_no_drift(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"

    ended = isochrone("crds", "--check", str(nowhere))

    assert ended.returncode == 2
    assert ended.stderr == f"isochrone crds: --check {nowhere}: there is no such folder\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("crds", "--write", "{file}/folder"),
        ("demo", "--out", "{file}/folder"),
        ("store", "--store", "{file}"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")

    ended = isochrone(*(it.format(file=file) for it in arguments))

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"isochrone {arguments[0]}: {file}")
    assert "Not a directory" in ended.stderr or "no folder" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["plan", "up"])
def test_a_mistaken_manifest_is_named_with_file_field_and_remedy(
    command: str, tmp_path: Path
) -> None:
    text = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")
    mistaken = tmp_path / "mistaken.yaml"
    mistaken.write_text(text.replace("accuracyFloor", "acuracyFloor"), encoding="utf-8")

    ended = isochrone(command, "-f", str(mistaken))

    assert ended.returncode == 2
    assert str(mistaken) in ended.stderr
    assert "spec.objectives" in ended.stderr
    assert "acuracyFloor" in ended.stderr
    assert "did you mean `accuracyFloor`?" in ended.stderr


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere.*no such file or folder"):
        read_manifests([str(tmp_path / "nowhere")])


def test_manifests_are_read_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # what a shell's <(…) names
    os.mkfifo(pipe)
    text = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")
    writer = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writer.start()

    assert len(read_manifests([str(pipe)]).services) == 1

    writer.join(timeout=60)


def test_a_manifest_without_end_is_refused_by_its_bound() -> None:
    with pytest.raises(ManifestError, match=r"/dev/zero: longer than 4194304 bytes"):
        read_manifests(["/dev/zero"])


def test_a_folder_without_manifests_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"holds no \.yaml"):
        read_manifests([str(tmp_path)])


def test_one_core_stays_for_the_gateway() -> None:
    assert machine(0, 1, 2).gateway_core == 0
    assert machine(0, 1, 2).executor_cores == (1, 2)
    assert machine(4).executor_cores == (4,)


def test_the_plan_is_bounded_by_the_cores_that_are_left() -> None:
    host = local_host((POOL,), machine(0, 1, 2, 3))

    assert (host.id, host.cores, host.pools) == (LOCAL_HOST, 3, (POOL.id,))


def test_each_executor_gets_cores_of_its_own() -> None:
    placed = place(plan_with(2), Fleet(pools=(POOL,)), machine(0, 1, 2, 3, 4))

    assert [it.cores for it in placed] == [(1, 2), (3, 4)]
    assert [it.worker for it in placed] == ["g-0", "g-1"]


def test_a_plan_for_more_cores_than_there_are_is_refused() -> None:
    with pytest.raises(SetupError, match=r"needs 4 cores .* has 3"):
        place(plan_with(2), Fleet(pools=(POOL,)), machine(0, 1, 2, 3))


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080")],
)
def test_an_address_is_printed_as_clients_take_it(tmp_path: Path, host: str, url: str) -> None:
    cell = Cell(
        PlanDocument(plan=plan_with(1), catalog=Catalog(models=(), variants=())),
        fleet=Fleet(pools=(POOL,)),
        machine=machine(0, 1, 2),
        store=tmp_path,
        run_directory=tmp_path,
        listen=(host, 8080),
    )
    (tmp_path / "gateway-ready.json").write_text('{"port": 8080, "admin_port": 1}', "utf-8")

    assert cell.is_reachable
    assert cell.url == url


def test_a_pool_is_profiled_on_the_last_cores() -> None:
    assert profiling_cores(POOL, machine(0, 1, 2)) == (1, 2)
    assert profiling_cores(POOL, machine(0)) is None


def test_this_machine_can_be_looked_at() -> None:
    here = look()

    assert here.cores
    assert here.memory_bytes > 0


def test_what_local_mode_cannot_carry_out_is_said() -> None:
    text = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")
    declared = load([Source(path="x", text=text)])
    asked = load(
        [
            Source(
                path="x",
                text=text + "  overload: {policy: BestEffort}\n  approval: Manual\n"
                "  scaling: {scaleToZeroAfter: 15m}\n  podTemplate: {labels: {team.example/a: b}}\n",
            )
        ]
    )

    assert unheeded(declared) == ()
    assert [line.partition(": ")[2] for line in unheeded(asked)] == [
        "approval Manual acts as Automatic here",
        "scaling.scaleToZeroAfter has no effect here",
        "podTemplate has no effect without pods",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_plan_is_printed_as_objects_that_load_again(form: str) -> None:
    subprocess.run([sys.executable, "examples/digits/make_models.py"], cwd=ROOT, check=True)
    ended = isochrone("plan", "-f", "examples/digits", "-o", form, timeout_s=500)
    assert ended.returncode == 0, ended.stderr
    (listed,) = (
        json.loads(ended.stdout)["items"] if form == "json" else [yaml.safe_load(ended.stdout)]
    )
    declared = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")

    plans = load(
        [
            Source(path="plan", text=yaml.safe_dump(listed)),
            Source(path="declared", text=declared),
        ]
    ).plans

    assert [it.namespace for it in plans] == ["digits"]
    assert listed["spec"]["explanation"][0]["reason"] == "Feasible"


@pytest.mark.slow
def test_a_plan_that_cannot_be_met_ends_with_status_1_and_says_why(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "examples/digits/make_models.py"], cwd=ROOT, check=True)
    text = (ROOT / "examples/digits/digits.yaml").read_text(encoding="utf-8")
    strict = tmp_path / "strict.yaml"
    strict.write_text(text.replace('accuracyFloor: "0.90"', 'accuracyFloor: "0.999"'), "utf-8")

    ended = isochrone("plan", "-f", str(strict), timeout_s=500)

    assert ended.returncode == 1, ended.stderr
    assert "InfeasibleAccuracy" in ended.stdout
    assert "is below the floor" in ended.stdout
    assert "nearest feasible" in ended.stdout


def test_emptying_a_store_leaves_what_is_not_the_stores(tmp_path: Path) -> None:
    (tmp_path / "variants" / "abc").mkdir(parents=True)
    cache = SourceCache(tmp_path, 1 << 30)
    cache.folder.mkdir()
    (cache.folder / "fetched").write_text("a network", encoding="utf-8")
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")

    told = isochrone("store", "--store", str(tmp_path)).stdout
    assert told == f"{tmp_path}: 1 variants, 9\n"
    assert isochrone("store", "--store", str(tmp_path), "--empty").returncode == 0

    assert [it.name for it in tmp_path.iterdir()] == ["thesis.txt"]
