"""The variants that are resident: their buffers, and what may be run on them.

No I/O but what a backend does. Called by the loop, from its one thread.
"""

from dataclasses import dataclass
from typing import Final

from isochrone.execution import ActionStatus, form_of
from isochrone.protocol.messages import InferBatch
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest
from isochrone_executor.backends.port import LoadedVariant

Views = tuple[memoryview, ...]


class Resident:
    """One variant in memory, and for each batch size and row count the views of its buffers."""

    def __init__(
        self,
        loaded: LoadedVariant,
        *,
        manifest: VariantManifest,
        sha256: str,
        batch_sizes: tuple[int, ...],
    ) -> None:
        self.loaded: Final = loaded
        self.sha256: Final = sha256
        self.batch_sizes: Final = batch_sizes
        self.row_bytes_in: Final = manifest.row_bytes_in
        self._manifest: Final = manifest
        # At most the sum of the batch sizes, filled as they are used.
        self._views: dict[tuple[int, int], tuple[Views, Views]] = {}
        for batch_size in batch_sizes:
            sides = (
                (loaded.inputs(batch_size), manifest.inputs),
                (
                    loaded.outputs(batch_size),
                    manifest.outputs,
                ),
            )
            for views, specs in sides:
                actual = [view.nbytes for view in views]
                expected = [batch_size * spec.row_bytes for spec in specs]
                assert actual == expected, f"buffers of {actual} bytes, signature {expected}"

    def views(self, batch_size: int, rows: int) -> tuple[Views, Views]:
        """Return the first ``rows`` rows of the input and of the output buffers of a batch size."""
        key = (batch_size, rows)
        views = self._views.get(key)
        if views is None:
            views = self._views[key] = (
                tuple(
                    view[: rows * spec.row_bytes]
                    for view, spec in zip(
                        self.loaded.inputs(batch_size), self._manifest.inputs, strict=True
                    )
                ),
                tuple(
                    view[: rows * spec.row_bytes]
                    for view, spec in zip(
                        self.loaded.outputs(batch_size), self._manifest.outputs, strict=True
                    )
                ),
            )
        return views

    def close(self) -> None:
        """Give back the variant's memory; no view is left that could reach it."""
        self._views.clear()
        self.loaded.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an action is not done."""

    status: ActionStatus
    detail: str


class Residents:
    """Resident variants by name. ``generation`` changes whenever the set of names does."""

    def __init__(self) -> None:
        self.generation = 0
        self._residents: dict[str, Resident] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the resident variants, sorted."""
        return tuple(sorted(self._residents))

    @property
    def forms(self) -> tuple[str, ...]:
        """In which form each of ``names`` is held."""
        held = [self._residents[name] for name in self.names]
        return tuple([form_of(it.sha256, it.batch_sizes) for it in held])

    def get(self, variant: str) -> Resident | None:
        """Return ``variant``, if it is resident."""
        return self._residents.get(variant)

    def add(self, variant: str, resident: Resident) -> None:
        """Make ``variant`` resident; it must not be."""
        assert variant not in self._residents, f"{variant} is resident already"
        self._residents[variant] = resident
        self.generation += 1

    def remove(self, variant: str) -> None:
        """Close ``variant`` and forget it; ``KeyError`` when it is not resident."""
        resident = self._residents.pop(variant)
        self.generation += 1
        resident.close()

    def accepting(self, message: InferBatch, payload_bytes: Bytes) -> Resident | None:
        """Return the variant that can run ``message``, or None: then ``refusal`` says why not."""
        resident = self._residents.get(message.variant)
        if (
            resident is not None
            and message.batch_size in resident.batch_sizes
            and 0 < message.rows <= message.batch_size
            and payload_bytes == message.rows * resident.row_bytes_in
        ):
            return resident
        return None

    def refusal(self, message: InferBatch, payload_bytes: Bytes) -> Refusal:
        """Return why ``message`` cannot be run; it must be one that is not accepted."""
        resident = self._residents.get(message.variant)
        if resident is None:
            return Refusal(
                status=ActionStatus.WEIGHTS_MISSING, detail=f"{message.variant} is not loaded"
            )
        if message.batch_size not in resident.batch_sizes:
            detail = f"batch size {message.batch_size} is not loaded; {resident.batch_sizes} are"
        elif not 0 < message.rows <= message.batch_size:
            detail = f"{message.rows} rows do not fit a batch of {message.batch_size}"
        else:
            expected = message.rows * resident.row_bytes_in
            detail = f"{payload_bytes} bytes of input; {message.rows} rows take {expected}"
        return Refusal(status=ActionStatus.BAD_INPUT, detail=detail)
