"""What the executor asks of a backend: to load a variant, and to run it in place.

Owned by the executor, which calls it from one thread at a time per variant: ``load`` in its loader
thread, everything else in its main thread. Implemented by one file per engine beside this one;
``contract`` holds the checks that each implementation passes.
"""

from pathlib import Path
from typing import Protocol

from isochrone.catalog import BackendName
from isochrone.units import Bytes
from isochrone_executor.artifacts import VariantManifest


class LoadedVariant(Protocol):
    """A variant that is resident and warm, with memory of its own for each batch size.

    The views that ``inputs`` and ``outputs`` return are the same memory on every call, one per
    tensor in the manifest's order, C-contiguous, of format ``B`` and exactly
    ``batch_size × row_bytes`` bytes; those of ``inputs`` are writable. ``run`` reads the first,
    and has written the second when it returns. Padding rows hold whatever an earlier batch left
    (zeros at first): a row's answer never depends on its neighbors.
    """

    @property
    def weights_bytes(self) -> Bytes:
        """Memory that the weights take while the variant is resident, as measured."""
        ...

    @property
    def workspace_bytes(self) -> Bytes:
        """All other memory that the variant holds: buffers of every batch size, engine state."""
        ...

    def inputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the input buffers of ``batch_size``; ``KeyError`` when it was not loaded."""
        ...

    def outputs(self, batch_size: int) -> tuple[memoryview, ...]:
        """Return the output buffers of ``batch_size``; ``KeyError`` when it was not loaded."""
        ...

    def run(self, batch_size: int) -> None:
        """Compute all ``batch_size`` rows, and return when the outputs are written.

        Any exception means that the outputs are not to be used; the variant stays resident.
        """
        ...

    def close(self) -> None:
        """Give back all memory. Called once; nothing else is called afterwards."""
        ...


class Backend(Protocol):
    """An engine. Opened once per process by ``registry.open_backend``."""

    @property
    def name(self) -> BackendName:
        """Which engine this is."""
        ...

    def load(
        self,
        manifest: VariantManifest,
        directory: Path,
        *,
        threads: int,
        batch_sizes: tuple[int, ...],
    ) -> LoadedVariant:
        """Return the variant in ``directory``, warmed up at each of ``batch_sizes``.

        ``threads`` is how many cores one run may use. ``batch_sizes`` is a non-empty subset of the
        manifest's. May run while another variant of the same backend is running. Raises
        ``ArtifactError`` when the files or options are not what the backend can run, and
        ``SetupError`` when the machine lacks what it needs.
        """
        ...
