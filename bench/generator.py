"""What the generator finds for EfficientNet-Lite0 with no hint: the fastest variant that loses little.

    python examples/photo-tags/make_models.py
    make bench-generator, or python bench/generator.py [--rounds 7] [--runs 15] [--out …]

Everything that this machine can make of the trained network is asked for: every precision and every
backend. Each variant's expected drop is measured on at least 1,000 crops, none of which was used for
calibration, and each is profiled on one core at a batch of one, as for any Model. Chosen is, by these
figures alone, the fastest whose drop has an upper 95 % bound of at most 0.01. Then the chosen one and
the network itself, called eagerly by PyTorch in fp32 on the same core, take turns, so that a slow spell
of the machine falls on both; figures are medians over rounds of each round's median, with their range, and
beside them the ratio of the two shortest runs of all, which other programs disturb least. The ratio that
counts is the one at a batch of one, for which the variant was chosen; those at batches of 2, 4 and 8, for
which the same combination is made again, stand beside it, each against PyTorch with the same batch.

PyTorch allocates every activation anew. Whether the C library then hands pages back to the kernel, to be
faulted in again by the next run, depends on the process's past: the same eager network takes 20 to 35 ms on
one machine. It is left as a user has it, and its page faults a run are written down beside its times.
"""

import argparse
import gc
import os
import resource
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.table import Table
from safetensors import safe_open

from isochrone.catalog import AccuracySource, BackendName, Precision, Variant
from isochrone.fleet import Engine, Pool, Vendor
from isochrone.ids import PoolId
from isochrone.units import MILLISECOND, ONE_PPM
from isochrone_builder.build import build_model
from isochrone_builder.profile import profile_variants
from isochrone_builder.request import ProfileBudget, Progress
from isochrone_cli.machine import look
from isochrone_executor.artifacts import read_manifest
from isochrone_executor.backends.registry import open_backend
from lite0 import CROPS, DECLARED_PPM, MAKER, NAME, build_request, require_models
from publishing import RESULTS, publish, summary

DROP_MAX_PPM: Final = 10_000
SAMPLES_MIN: Final = 1_000
SPEEDUP_MIN: Final = 8.0
LARGER_BATCHES: Final = (2, 4, 8)
WARM_UP_RUNS: Final = 3
PACKAGES: Final = ("nncf", "onnx", "onnxruntime", "openvino", "torch")
BACKENDS: Final = tuple(
    it for it in BackendName if it not in (BackendName.SYNTHETIC, BackendName.CUDA_GRAPH)
)
"""All that run on a CPU and are made from something."""


def pool() -> Pool:
    """Return a pool whose accelerators are single cores of this machine."""
    return Pool(
        id=PoolId("one-core"),
        vendor=Vendor.CPU,
        product="",
        memory_bytes=4 << 30,
        cores=1,
        accelerators_per_node=1,
        node_price_uph=0,
        nodes_min=0,
        nodes_max=1,
        engine=Engine.LOCAL,
    )


def chosen(variants: list[tuple[Variant, int]]) -> Variant:
    """Return the fastest of ``variants`` (with their p50 in ns) whose drop is surely small enough."""
    fit = [(p50_ns, it.id, it) for it, p50_ns in variants if drop_upper_ppm(it) <= DROP_MAX_PPM]
    return min(fit, key=lambda it: it[:2])[2]


def drop_upper_ppm(variant: Variant) -> int:
    """Return the upper bound of what ``variant`` loses; 0 for the original itself."""
    if variant.accuracy.source is AccuracySource.DECLARED:
        return 0
    assert variant.accuracy.samples >= SAMPLES_MIN
    return DECLARED_PPM - variant.accuracy.lower_ppm


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What PyTorch's eager network took, and a variant, in ms a run: the runs of each round.

    ``faults``: page faults in each of the eager network's runs, on average.
    """

    batch_size: int
    faults: float
    eager: list[list[float]]
    ours: list[list[float]]

    def figures(self) -> dict[str, Any]:
        """Return both in summary, and how much faster the variant is."""
        eager, ours = ([statistics.median(it) for it in side] for side in (self.eager, self.ours))
        shortest_eager, shortest = (min(map(min, side)) for side in (self.eager, self.ours))
        return {
            "batch_size": self.batch_size,
            "eager_fp32_ms": summary(eager),
            "eager_page_faults": self.faults,
            "chosen_ms": summary(ours),
            "speedup": summary([one / two for one, two in zip(eager, ours, strict=True)]),
            "speedup_of_shortest": shortest_eager / shortest,
        }


def compare(
    store: Path, variant: Variant, batch_size: int, *, rounds: int, runs: int
) -> Comparison:
    """Return what PyTorch's eager network and ``variant`` take for ``batch_size`` crops, in turns."""
    with safe_open(CROPS, "np") as crops:
        images: np.ndarray[Any, Any] = crops.get_slice("validation/image")[:batch_size]
    network = runpy.run_path(str(MAKER))["load_tagger"](0)
    given = torch.from_numpy(images.copy())
    manifest, directory = read_manifest(store, variant.artifact.sha256)
    backend = open_backend(manifest.backend)
    loaded = backend.load(manifest, directory, threads=1, batch_sizes=(batch_size,))
    loaded.inputs(batch_size)[0][:] = images.tobytes()

    def eager() -> None:
        with torch.inference_mode():
            network(given)

    calls: tuple[Callable[[], None], ...] = (eager, lambda: loaded.run(batch_size))
    seen: tuple[list[list[float]], list[list[float]]] = ([], [])
    for call in calls:
        for _ in range(WARM_UP_RUNS):
            call()
    gc.collect()
    gc.disable()
    faults = [0, 0]
    for turn in range(rounds):
        for place in (0, 1) if turn % 2 else (1, 0):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            seen[place].append(_times_ms(calls[place], runs))
            faults[place] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    gc.enable()
    loaded.close()
    return Comparison(
        batch_size=batch_size, faults=faults[0] / (rounds * runs), eager=seen[0], ours=seen[1]
    )


def main(arguments: list[str]) -> int:
    """Build, profile, choose, compare, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "generator.json")
    options = parser.parse_args(arguments)
    require_models()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        store = Path(name)
        began = time.monotonic()
        asked = build_request(
            CROPS, precisions=tuple(Precision), backends=BACKENDS, batch_sizes=(1,)
        )
        report = build_model(asked, store, _tell, threads=len(cores))
        built_s = time.monotonic() - began
        profiles = profile_variants(
            report.variants, pool(), cores[-1:], store, _tell, ProfileBudget()
        )
        made = list(zip(report.variants, profiles, strict=True))
        timed = [(it, profile.batches[0].p50_ns) for it, profile in made]
        best = chosen(timed)
        asked = build_request(
            CROPS,
            precisions=(best.precision,),
            backends=(best.backend,),
            batch_sizes=LARGER_BATCHES,
        )
        (larger,) = build_model(asked, store, _tell, threads=len(cores)).variants
        os.sched_setaffinity(0, cores[-1:])
        torch.set_num_threads(1)
        figures, *others = (
            compare(store, it, size, rounds=options.rounds, runs=options.runs).figures()
            for it, size in ((best, 1), *((larger, size) for size in LARGER_BATCHES))
        )
    result: dict[str, Any] = {
        "model": NAME,
        "cores": 1,
        "rounds": options.rounds,
        "runs_per_round": options.runs,
        "machine": asdict(look()),
        "versions": {package: version(package) for package in PACKAGES},
        "build_s": built_s,
        "drop_upper_max": DROP_MAX_PPM / ONE_PPM,
        "variants": [_row(it, p50_ns) for it, p50_ns in timed],
        "noisy": [
            it.id for it, profile in made if profile.noise is not None and profile.noise.noisy
        ],
        "not_made": {it.name: it.reason for it in report.failures},
        "chosen": best.id,
        **figures,
        "speedup_wanted": SPEEDUP_MIN,
        "larger_batches": others,
        "larger_batches_drop_upper": drop_upper_ppm(larger) / ONE_PPM,
    }
    speedup = figures["speedup"]["median"]
    tables = [_table(timed, best, speedup), _batches_table([figures, *others])]
    publish(result, tables, options.out)
    return 0


def _row(variant: Variant, p50_ns: int) -> dict[str, Any]:
    accuracy = variant.accuracy
    return {
        "backend": variant.backend.value,
        "precision": variant.precision.value,
        "p50_ms": p50_ns / MILLISECOND,
        "drop_upper": drop_upper_ppm(variant) / ONE_PPM,
        "drop": (DECLARED_PPM - accuracy.value_ppm) / ONE_PPM,
        "agreement": None if accuracy.agreement_ppm is None else accuracy.agreement_ppm / ONE_PPM,
        "samples": accuracy.samples,
        "source": accuracy.source.value,
    }


def _table(timed: list[tuple[Variant, int]], best: Variant, speedup: float) -> Table:
    table = Table(title=f"EfficientNet-Lite0, one core: chosen is {speedup:.1f} × eager fp32")
    for heading in ("backend", "precision", "p50 ms", "drop", "upper 95 %", "agrees", ""):
        table.add_column(heading, justify="right")
    for variant, p50_ns in sorted(timed, key=lambda it: it[1]):
        row = _row(variant, p50_ns)
        agrees = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
        table.add_row(
            row["backend"],
            row["precision"],
            f"{row['p50_ms']:.2f}",
            f"{row['drop']:.4f}",
            f"{row['drop_upper']:.4f}",
            agrees,
            "chosen" if variant is best else "",
        )
    return table


def _batches_table(figures: list[dict[str, Any]]) -> Table:
    table = Table(title="The same combination, for larger batches: ms a batch, one core")
    for heading in (
        "batch",
        "eager fp32",
        "page faults",
        "chosen",
        "times faster",
        "of the shortest",
    ):
        table.add_column(heading, justify="right")
    for row in figures:
        table.add_row(
            str(row["batch_size"]),
            f"{row['eager_fp32_ms']['median']:.2f}",
            f"{row['eager_page_faults']:.0f}",
            f"{row['chosen_ms']['median']:.2f}",
            f"{row['speedup']['median']:.1f}",
            f"{row['speedup_of_shortest']:.1f}",
        )
    return table


def _times_ms(call: Callable[[], None], runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        began = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - began) / MILLISECOND)
    return taken


def _tell(progress: Progress) -> None:
    print(f"  {progress.done}/{progress.total} {progress.step} {progress.subject}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
