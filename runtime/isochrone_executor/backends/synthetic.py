"""The synthetic backend: takes the time that its artifact names, and computes a checksum.

For tests, for scale experiments and for plans tried without a model, as Clockwork's authors used a
worker of this kind. Whatever it is used for is called synthetic. Its time is spent asleep, but for
the last ``SPIN_NS`` before the end, which are spent polling the clock: a sleep ends some tens of
microseconds late, and the time that was promised is to be the time that is taken.

Each row's answer is a function of that row of all inputs alone (see ``synthetic_answer``), so that
a test can tell whether every request got its own. ``make_synthetic_artifact`` writes artifacts.

Options of the artifact: ``batch_ns`` (``"1:5000000,2:8000000"``: batch size and nanoseconds) and
``load_ns``, both required; ``noise_sigma`` (sigma of the logarithm of a factor of median 1 on each
run; default 0) and ``seed`` of that noise (default 0); ``weights_bytes`` and ``workspace_bytes``,
which are reported but not allocated (default 0).
"""

import math
import random
import struct
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict, Unpack

from isochrone.catalog import BackendName, Datatype, Precision, TensorSpec
from isochrone.errors import ArtifactError
from isochrone.units import MICROSECOND, SECOND, Bytes, Nanoseconds
from isochrone_executor.artifacts import (
    MANIFEST_FORMAT,
    VariantManifest,
    describe_files,
    install_variant,
)

SPIN_NS: Final[Nanoseconds] = 100 * MICROSECOND
"""Longer than a sleep overshoots on an idle Linux; short enough to leave the core to others."""
CHECKED_BYTES: Final[Bytes] = 4096
"""The checksum covers this much of each end of a row: the time is promised, so it must be small."""

_WEIGHTS_NAME: Final = "weights.bin"
_FORMATS: Final = {
    Datatype.BOOL: "?",
    Datatype.UINT8: "B",
    Datatype.UINT16: "H",
    Datatype.UINT32: "I",
    Datatype.UINT64: "Q",
    Datatype.INT8: "b",
    Datatype.INT16: "h",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP16: "e",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}
_PERIOD: Final = 4
"""Elements after which an answer repeats: the four bytes of the checksum."""


class SyntheticExtras(TypedDict, total=False):
    """What ``make_synthetic_artifact`` takes beside the essentials; see the module's options."""

    architecture: str
    precision: Precision
    noise_sigma: float
    seed: int
    weights_bytes: Bytes
    workspace_bytes: Bytes


def make_synthetic_artifact(
    store: Path,
    *,
    model: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batch_ns: Mapping[int, Nanoseconds],
    load_ns: Nanoseconds,
    **extras: Unpack[SyntheticExtras],
) -> str:
    """Put a synthetic variant into ``store`` and return its digest.

    ``batch_ns`` maps each batch size to its execution time. Equal arguments give equal digests;
    ``architecture`` (default ``"synthetic"``) tells variants apart that are otherwise equal.
    Raises ``ArtifactError`` when the arguments make no valid manifest.
    """
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix="staging-") as folder:
        staging = Path(folder) / "variant"
        staging.mkdir()
        architecture = extras.get("architecture", "synthetic")
        (staging / _WEIGHTS_NAME).write_bytes(f"{model} {architecture}\n".encode())
        manifest = VariantManifest(
            format=MANIFEST_FORMAT,
            model=model,
            architecture=architecture,
            precision=extras.get("precision", Precision.FP32),
            backend=BackendName.SYNTHETIC,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            batch_sizes=tuple(sorted(batch_ns)),
            files=describe_files(staging),
            options={
                "batch_ns": ",".join(f"{size}:{batch_ns[size]}" for size in sorted(batch_ns)),
                "load_ns": str(load_ns),
                "noise_sigma": repr(extras.get("noise_sigma", 0.0)),
                "seed": str(extras.get("seed", 0)),
                "weights_bytes": str(extras.get("weights_bytes", 0)),
                "workspace_bytes": str(extras.get("workspace_bytes", 0)),
            },
        )
        return install_variant(store, staging, manifest)


def synthetic_answer(
    rows: Sequence[bytes | bytearray | memoryview], outputs: Sequence[TensorSpec]
) -> tuple[bytes, ...]:
    """Return the bytes of each of ``outputs`` for one row whose inputs are ``rows``, in order.

    The answer's elements are the four bytes of a CRC-32 (each halved, to fit every datatype; its
    lowest bit for BOOL), over and over. The CRC runs over the first and the last
    ``CHECKED_BYTES`` of each input.
    """
    checksum = 0
    for row in rows:
        checksum = zlib.crc32(row[:CHECKED_BYTES], checksum)
        if len(row) > CHECKED_BYTES:
            checksum = zlib.crc32(row[-CHECKED_BYTES:], checksum)
    values = [byte >> 1 for byte in checksum.to_bytes(_PERIOD, "little")]
    answers = []
    for spec in outputs:
        typed = [value & 1 for value in values] if spec.datatype is Datatype.BOOL else values
        period = struct.pack(f"<{_PERIOD}{_FORMATS[spec.datatype]}", *typed)
        answers.append((period * -(-spec.row_elements // _PERIOD))[: spec.row_bytes])
    return tuple(answers)


class SyntheticVariant:
    """A loaded synthetic variant: buffers, and how long a run takes."""

    def __init__(
        self, manifest: VariantManifest, batch_ns: dict[int, Nanoseconds], noise_sigma: float
    ) -> None:
        self._manifest = manifest
        self._batch_ns = batch_ns
        self._noise_sigma = noise_sigma
        self._row_sizes = tuple(spec.row_bytes for spec in manifest.inputs)
        self._random = random.Random(_whole(manifest, "seed", 0))  # noqa: S311  repeatable noise
        self._inputs = {size: _allocate(manifest.inputs, size) for size in batch_ns}
        self._outputs = {size: _allocate(manifest.outputs, size) for size in batch_ns}
        row_bytes = manifest.row_bytes_in + manifest.row_bytes_out
        self.weights_bytes: Bytes = _whole(manifest, "weights_bytes", 0)
        self.workspace_bytes: Bytes = _whole(manifest, "workspace_bytes", 0) + row_bytes * sum(
            batch_ns
        )

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``."""
        return self._inputs[batch_size]

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``."""
        return self._outputs[batch_size]

    def run(self, batch_size: int) -> None:
        """Answer every row, and return when the batch's time is over."""
        begin = time.monotonic_ns()
        duration_ns = self._batch_ns[batch_size]
        if self._noise_sigma:
            duration_ns = int(duration_ns * math.exp(self._random.gauss(0, self._noise_sigma)))
        inputs, outputs = self._inputs[batch_size], self._outputs[batch_size]
        for row in range(batch_size):
            rows = [
                view[row * size : (row + 1) * size]
                for view, size in zip(inputs, self._row_sizes, strict=True)
            ]
            answers = synthetic_answer(rows, self._manifest.outputs)
            for view, answer in zip(outputs, answers, strict=True):
                view[row * len(answer) : (row + 1) * len(answer)] = answer
        _pass_time_until(begin + duration_ns)

    def close(self) -> None:
        """Give back the buffers."""
        self._inputs.clear()
        self._outputs.clear()


class SyntheticBackend:
    """Loads synthetic variants; see the module for their options."""

    name = BackendName.SYNTHETIC

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> SyntheticVariant:
        """Return the variant after ``load_ns``; ``ArtifactError`` when its options are wrong."""
        del directory, threads  # there are no weights, and sleeping takes no core
        begin = time.monotonic_ns()
        times = _batch_ns(manifest)
        missing = [size for size in batch_sizes if size not in times]
        if missing:
            message = f"option batch_ns has no time for the batch sizes {missing}"
            raise ArtifactError(message)
        variant = SyntheticVariant(
            manifest, {size: times[size] for size in batch_sizes}, _noise_sigma(manifest)
        )
        _pass_time_until(begin + _whole(manifest, "load_ns"))
        return variant


def _allocate(specs: tuple[TensorSpec, ...], batch_size: int) -> tuple[memoryview, ...]:
    return tuple(memoryview(bytearray(batch_size * spec.row_bytes)) for spec in specs)


def _pass_time_until(instant: int) -> None:
    left = instant - time.monotonic_ns()
    if left > SPIN_NS:
        time.sleep((left - SPIN_NS) / SECOND)
    while time.monotonic_ns() < instant:
        pass


def _batch_ns(manifest: VariantManifest) -> dict[int, Nanoseconds]:
    text = manifest.options.get("batch_ns", "")
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return {int(size): int(duration) for size, duration in pairs}
    except ValueError:
        message = f'option batch_ns is {text!r}: write size:nanoseconds pairs, as "1:5000000"'
        raise ArtifactError(message) from None


def _noise_sigma(manifest: VariantManifest) -> float:
    text = manifest.options.get("noise_sigma", "0")
    try:
        sigma = float(text)
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma <= 1:
        message = f"option noise_sigma is {text!r}: write a number from 0 to 1"
        raise ArtifactError(message)
    return sigma


def _whole(manifest: VariantManifest, option: str, default: int | None = None) -> int:
    text = manifest.options.get(option, "" if default is None else str(default))
    if not text.isascii() or not text.isdigit():
        message = f"option {option} is {text!r}: write a whole number of at least 0"
        raise ArtifactError(message)
    return int(text)
