"""What every backend must keep: checks that take an opened backend and one of its variants.

For tests of this package and of whoever builds artifacts; plain functions, so that any test runner
can call them. Each loads what it needs, closes it again, and raises ``AssertionError`` with what
was expected. ``check_backend`` runs all of them.

``tolerance`` is the largest difference between two elements that count as equal: engines may sum
in another order at another batch size. Zero demands equal bytes in effect.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isochrone.catalog import TensorSpec
from isochrone.dtypes import NUMPY_DTYPES
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.port import Backend, LoadedVariant

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked: a backend, one of its variants, and how exact its answers are."""

    backend: Backend
    manifest: VariantManifest
    directory: Path
    tolerance: float = 0.0

    @property
    def batch_size_max(self) -> int:
        """The largest batch size of the variant."""
        return self.manifest.batch_sizes[-1]


def check_backend(subject: Subject) -> None:
    """Run every check of this module on ``subject``."""
    check_name(subject)
    check_buffers(subject)
    check_unknown_batch_size(subject)
    check_subset_of_batch_sizes(subject)
    check_memory_is_reported(subject)
    check_runs_repeat(subject)
    check_outputs_follow_inputs(subject)
    check_rows_are_independent(subject)
    check_batch_sizes_agree(subject)
    check_reload(subject)
    check_load_during_run(subject)


def check_name(subject: Subject) -> None:
    """Check that the backend is the one that the manifest names."""
    assert subject.manifest.backend is subject.backend.name


def check_buffers(subject: Subject) -> None:
    """Check size, kind and steadiness of the buffers, and that inputs can be written."""
    with _loaded(subject) as variant:
        for batch_size in subject.manifest.batch_sizes:
            for views, again, specs in (
                (variant.inputs(batch_size), variant.inputs(batch_size), subject.manifest.inputs),
                (
                    variant.outputs(batch_size),
                    variant.outputs(batch_size),
                    subject.manifest.outputs,
                ),
            ):
                assert len(views) == len(specs), "one view per tensor"
                for view, same, spec in zip(views, again, specs, strict=True):
                    assert view.nbytes == batch_size * spec.row_bytes, f"size of {spec.name}"
                    assert view.format == "B", f"format of {spec.name} is {view.format}"
                    assert view.ndim == 1, f"{spec.name} is not flat"
                    assert view.contiguous, f"{spec.name} is not contiguous"
                    assert _address(view) == _address(same), f"{spec.name} moves"
            for view in variant.inputs(batch_size):
                assert not view.readonly, "inputs are writable"


def check_unknown_batch_size(subject: Subject) -> None:
    """Check that buffers of a batch size that was not loaded raise ``KeyError``."""
    absent = subject.batch_size_max + 1
    with _loaded(subject) as variant:
        for ask in (variant.inputs, variant.outputs):
            try:
                ask(absent)
            except KeyError:
                continue
            message = f"batch size {absent} has buffers, though it was not loaded"
            raise AssertionError(message)


def check_subset_of_batch_sizes(subject: Subject) -> None:
    """Check that a load of some batch sizes runs each of them."""
    chosen = subject.manifest.batch_sizes[-1:]
    with _loaded(subject, batch_sizes=chosen) as variant:
        _answer(subject, variant, _rows(subject, chosen[0]), chosen[0])


def check_memory_is_reported(subject: Subject) -> None:
    """Check that the workspace counts at least the buffers, and that nothing is negative."""
    manifest = subject.manifest
    buffers = sum(manifest.batch_sizes) * (manifest.row_bytes_in + manifest.row_bytes_out)
    with _loaded(subject) as variant:
        assert isinstance(variant.weights_bytes, int)
        assert variant.weights_bytes >= 0
        assert isinstance(variant.workspace_bytes, int)
        assert variant.workspace_bytes >= buffers, f"the buffers alone take {buffers}"


def check_runs_repeat(subject: Subject) -> None:
    """Check that the same inputs give the same answer, run after run."""
    batch_size = subject.batch_size_max
    rows = _rows(subject, batch_size)
    with _loaded(subject) as variant:
        first = _answer(subject, variant, rows, batch_size)
        for _ in range(3):
            _same(subject, first, _answer(subject, variant, rows, batch_size), "a repeated run")


def check_outputs_follow_inputs(subject: Subject) -> None:
    """Check that other inputs give another answer: that outputs are written at all."""
    batch_size = subject.manifest.batch_sizes[0]
    with _loaded(subject) as variant:
        one = _answer(subject, variant, _rows(subject, batch_size, seed=1), batch_size)
        two = _answer(subject, variant, _rows(subject, batch_size, seed=2), batch_size)
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True)), "inputs ignored"


def check_rows_are_independent(subject: Subject) -> None:
    """Check that a row's answer is the same whatever its neighbors and padding hold."""
    batch_size = subject.batch_size_max
    rows = _rows(subject, batch_size, seed=1)
    others = tuple(array.copy() for array in _rows(subject, batch_size, seed=2))
    for other, row in zip(others, rows, strict=True):
        other[0] = row[0]
    with _loaded(subject) as variant:
        one = tuple(a[:1] for a in _answer(subject, variant, rows, batch_size))
        two = tuple(a[:1] for a in _answer(subject, variant, others, batch_size))
    _same(subject, one, two, "other neighbors")


def check_batch_sizes_agree(subject: Subject) -> None:
    """Check that a row's answer is the same at every batch size."""
    rows = _rows(subject, subject.batch_size_max)
    with _loaded(subject) as variant:
        whole = _answer(subject, variant, rows, subject.batch_size_max)
        for batch_size in subject.manifest.batch_sizes:
            part = tuple(array[:batch_size] for array in rows)
            answer = _answer(subject, variant, part, batch_size)
            expected = tuple(array[:batch_size] for array in whole)
            _same(subject, expected, answer, f"batch size {batch_size}")


def check_reload(subject: Subject) -> None:
    """Check that a variant can be closed and loaded again, and then answers the same."""
    batch_size = subject.manifest.batch_sizes[0]
    rows = _rows(subject, batch_size)
    answers = []
    for _ in range(2):
        with _loaded(subject) as variant:
            answers.append(_answer(subject, variant, rows, batch_size))
    _same(subject, answers[0], answers[1], "a second load")


def check_load_during_run(subject: Subject) -> None:
    """Check that a load in another thread disturbs neither itself nor the running variant."""
    batch_size = subject.manifest.batch_sizes[0]
    rows = _rows(subject, batch_size)
    late: list[Arrays] = []

    def load_and_run() -> None:
        with _loaded(subject) as second:
            late.append(_answer(subject, second, rows, batch_size))

    with _loaded(subject) as variant:
        expected = _answer(subject, variant, rows, batch_size)
        thread = threading.Thread(target=load_and_run)
        thread.start()
        while thread.is_alive():
            answer = _answer(subject, variant, rows, batch_size)
            _same(subject, expected, answer, "a run during a load")
        thread.join()
    assert late, "the load in the other thread failed"
    _same(subject, expected, late[0], "a variant that was loaded during runs")


@contextmanager
def _loaded(
    subject: Subject, *, batch_sizes: tuple[int, ...] | None = None
) -> Iterator[LoadedVariant]:
    variant = subject.backend.load(
        subject.manifest,
        subject.directory,
        threads=1,
        batch_sizes=subject.manifest.batch_sizes if batch_sizes is None else batch_sizes,
    )
    try:
        yield variant
    finally:
        variant.close()


def _rows(subject: Subject, count: int, *, seed: int = 0) -> Arrays:
    """Return ``count`` random rows of every input; the first rows of one seed are always equal."""
    return tuple(
        np.stack([_row(spec, (seed, place, row)) for row in range(count)])
        for place, spec in enumerate(subject.manifest.inputs)
    )


def _row(spec: TensorSpec, seed: tuple[int, int, int]) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    dtype = NUMPY_DTYPES[spec.datatype]
    if dtype.kind == "f":
        return random.random(spec.shape[1:]).astype(dtype)
    # Small enough for every integer type; 0 and 1 for BOOL.
    return random.integers(0, 2 if dtype.kind == "b" else 128, spec.shape[1:]).astype(dtype)


def _answer(subject: Subject, variant: LoadedVariant, rows: Arrays, batch_size: int) -> Arrays:
    """Run ``rows`` as one batch and return a copy of every output."""
    for view, array in zip(variant.inputs(batch_size), rows, strict=True):
        view[:] = array.tobytes()
    variant.run(batch_size)
    return tuple(
        np.frombuffer(bytes(view), dtype=NUMPY_DTYPES[spec.datatype]).reshape(
            batch_size, *spec.shape[1:]
        )
        for view, spec in zip(variant.outputs(batch_size), subject.manifest.outputs, strict=True)
    )


def _same(subject: Subject, expected: Arrays, actual: Arrays, what: str) -> None:
    for spec, one, two in zip(subject.manifest.outputs, expected, actual, strict=True):
        difference = np.abs(one.astype(np.float64) - two.astype(np.float64)).max()
        assert difference <= subject.tolerance, (
            f"{what}: {spec.name} differs by {difference}; {subject.tolerance} is tolerated"
        )


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0])
