"""The CUDA backend, where there is a GPU; and what is asked of NVML, on a fake of it everywhere."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from isochrone.catalog import BackendName, Datatype, Precision, TensorSpec
from isochrone.errors import SetupError
from isochrone.units import GIB
from isochrone_executor import gpu
from isochrone_executor.artifacts import (
    MANIFEST_FORMAT,
    VariantManifest,
    describe_files,
    install_variant,
    read_manifest,
)
from isochrone_executor.backends import contract
from isochrone_executor.backends.registry import open_backend
from isochrone_executor.backends.torch_graph import (
    GRAPH_FORMAT,
    EnumRef,
    GraphDocument,
    Literal,
    Step,
    ValueRef,
)

CHECKS = [value for name, value in sorted(vars(contract).items()) if name.startswith("check_")]
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU on this machine"
)
X, W, N = ValueRef("x"), ValueRef("w"), ValueRef("n")


class FakeNvmlError(Exception):
    """An error with NVML's return code."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML return code {value}")
        self.value = value


@dataclass
class FakeMemory:
    """``nvmlMemory_t``."""

    total: int
    free: int


@dataclass
class FakeDevice:
    """A GPU, or an instance of one: ``slots`` is None where MIG is not known."""

    uuid: str
    name: str = "Fake 100"
    memory: FakeMemory = field(default_factory=lambda: FakeMemory(80 * GIB, 70 * GIB))
    clocks: dict[int, tuple[int, int]] | None = None
    slots: "list[FakeDevice | None] | None" = None
    divided: bool = False


class FakeNvml:
    """NVML over a list of devices: the same answers and the same errors, for what is asked here."""

    NVMLError = FakeNvmlError

    def __init__(self, *devices: FakeDevice) -> None:
        self._devices = devices

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:  # noqa: N802
        return self._devices[index]

    def nvmlDeviceGetUUID(self, handle: FakeDevice) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeDevice) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeDevice) -> FakeMemory:  # noqa: N802
        return handle.memory

    def nvmlDeviceGetClockInfo(self, handle: FakeDevice, clock: int) -> int:  # noqa: N802
        return self._clocks(handle)[clock][0]

    def nvmlDeviceGetMaxClockInfo(self, handle: FakeDevice, clock: int) -> int:  # noqa: N802
        return self._clocks(handle)[clock][1]

    def nvmlDeviceGetMigMode(self, handle: FakeDevice) -> list[int]:  # noqa: N802
        if handle.slots is None:
            raise FakeNvmlError(3)  # not supported
        return [int(handle.divided)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeDevice) -> int:  # noqa: N802
        return len(handle.slots or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: N802
        self, handle: FakeDevice, index: int
    ) -> FakeDevice:
        instance = (handle.slots or [])[index]
        if instance is None:
            raise FakeNvmlError(6)  # not found
        return instance

    @staticmethod
    def _clocks(handle: FakeDevice) -> dict[int, tuple[int, int]]:
        if handle.clocks is None:
            raise FakeNvmlError(3)
        return handle.clocks


@contextmanager
def real_nvml() -> "AbstractContextManager[gpu.Nvml]":
    """Give NVIDIA's own library, where there is a GPU."""
    try:
        with gpu.opened() as nvml:
            yield nvml
    except SetupError as error:
        pytest.skip(str(error))


CLOCKS = {gpu.CLOCK_SM: (1_980, 1_980), gpu.CLOCK_MEMORY: (3_201, 3_201)}
WHOLE = FakeDevice("GPU-a", clocks=CLOCKS, slots=[None] * 7)
DIVIDED = FakeDevice(
    "GPU-b",
    clocks=CLOCKS,
    divided=True,
    slots=[
        FakeDevice("MIG-1", memory=FakeMemory(10 * GIB, 9 * GIB)),
        None,
        FakeDevice("MIG-2", memory=FakeMemory(20 * GIB, 20 * GIB)),
    ],
)


@pytest.mark.parametrize(
    "nvml",
    [lambda: nullcontext(FakeNvml(WHOLE, DIVIDED)), real_nvml],
    ids=["fake", "real"],
)
def test_what_is_listed_can_be_told_apart_and_adds_up(
    nvml: Callable[[], AbstractContextManager[gpu.Nvml]],
) -> None:
    with nvml() as opened:
        found = gpu.list_gpus(opened)
    assert found
    assert len({each.uuid for each in found}) == len(found)
    for each in found:
        assert each.name
        assert each.uuid.startswith("MIG-" if each.parent else "GPU-")
        assert 0 < each.memory_free_bytes <= each.memory_bytes
        assert 0 <= each.sm_mhz <= each.sm_mhz_max


def test_a_divided_gpu_is_listed_as_its_instances_with_its_clocks() -> None:
    found = gpu.list_gpus(FakeNvml(WHOLE, DIVIDED))
    assert [(each.uuid, each.parent) for each in found] == [
        ("GPU-a", ""),
        ("MIG-1", "GPU-b"),
        ("MIG-2", "GPU-b"),
    ]
    assert [each.memory_bytes // GIB for each in found] == [80, 10, 20]
    assert {each.sm_mhz for each in found} == {1_980}


def test_a_gpu_that_knows_neither_mig_nor_clocks_is_listed_whole() -> None:
    (found,) = gpu.list_gpus(FakeNvml(FakeDevice("GPU-old")))
    assert (found.uuid, found.parent, found.sm_mhz, found.sm_mhz_max) == ("GPU-old", "", 0, 0)


def test_an_error_that_means_something_else_is_not_swallowed() -> None:
    class Lost(FakeNvml):
        def nvmlDeviceGetMigMode(self, handle: FakeDevice) -> list[int]:  # noqa: ARG002, N802
            raise FakeNvmlError(15)  # the GPU is lost

    with pytest.raises(FakeNvmlError, match="15"):
        gpu.list_gpus(Lost(WHOLE))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_without_a_gpu_the_backend_says_so() -> None:
    with pytest.raises(SetupError, match="needs an NVIDIA GPU"):
        open_backend(BackendName.CUDA_GRAPH)


def document() -> GraphDocument:
    """Return softmax(relu(x · wᵀ) + 0, 1, 2, …), with the counting on the document's device."""
    return GraphDocument(
        format=GRAPH_FORMAT,
        inputs=("x",),
        outputs=("scores",),
        weights=("w",),
        steps=(
            Step(
                function="aten.linear.default", arguments=(X, W), keywords={}, results=("product",)
            ),
            Step(
                function="aten.relu_.default",
                arguments=(ValueRef("product"),),
                keywords={},
                results=("positive",),
            ),
            Step(
                function="aten.arange.default",
                arguments=(Literal(16),),
                keywords={"device": EnumRef("device", "cpu")},
                results=("n",),
            ),
            Step(
                function="aten.add.Tensor",
                arguments=(ValueRef("positive"), N),
                keywords={},
                results=("sum",),
            ),
            Step(
                function="aten.softmax.int",
                arguments=(ValueRef("sum"), Literal(1)),
                keywords={},
                results=("scores",),
            ),
        ),
    )


@pytest.fixture
def variant(tmp_path: Path) -> tuple[VariantManifest, Path]:
    """Return a small variant in a store, for the CUDA backend."""
    staging = tmp_path / "staging"
    staging.mkdir()
    torch.manual_seed(1)
    save_file({"w": torch.randn(16, 32)}, staging / "weights.safetensors")
    (staging / "graph.json").write_bytes(msgspec.json.encode(document()))
    manifest = VariantManifest(
        format=MANIFEST_FORMAT,
        model="ns/m",
        architecture="a",
        precision=Precision.FP32,
        backend=BackendName.CUDA_GRAPH,
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 32)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 16)),),
        batch_sizes=(1, 2, 4),
        files=describe_files(staging),
        options={},
    )
    return read_manifest(tmp_path, install_variant(tmp_path, staging, manifest))


@needs_gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_cuda_backend_keeps_the_contract(
    check: Callable[[contract.Subject], None], variant: tuple[VariantManifest, Path]
) -> None:
    manifest, directory = variant
    check(
        contract.Subject(
            backend=open_backend(BackendName.CUDA_GRAPH),
            manifest=manifest,
            directory=directory,
            tolerance=1e-5,
        )
    )


@needs_gpu
def test_the_gpu_answers_as_the_cpu_does_and_its_events_tell_the_time(
    variant: tuple[VariantManifest, Path],
) -> None:
    manifest, directory = variant
    answers = []
    for name in (BackendName.TORCH, BackendName.CUDA_GRAPH):
        loaded = open_backend(name).load(manifest, directory, threads=1, batch_sizes=(4,))
        loaded.inputs(4)[0][:] = torch.arange(128.0).div(128).numpy().tobytes()
        loaded.run(4)
        answers.append(torch.frombuffer(bytearray(loaded.outputs(4)[0]), dtype=torch.float32))
    assert torch.allclose(*answers, atol=1e-5)
    assert loaded.device_ns(4) > 0
