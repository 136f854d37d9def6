"""One Model's store, samples and records: makes single variants, and finds out how accurate they are.

Called by ``build``, for every variant that a Model asks for, and by ``judging``, for one that somebody
wrote by hand. Each step is recorded by the digest of what it depends on, so that whoever asks next does
only what is left.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from isochrone.build_document import runs_on
from isochrone.catalog import Accuracy, BackendName, Precision
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import ArtifactError, ManifestError
from isochrone.fleet import Vendor
from isochrone.ids import qualify
from isochrone.units import PartsPerMillion
from isochrone_builder import accuracy
from isochrone_builder.combinations import recipe, require_makeable
from isochrone_builder.intake import FORMATS, VariantMaker, open_artifact, reference_backend
from isochrone_builder.records import Records, key_of
from isochrone_builder.request import ArchitectureRequest, BuildRequest
from isochrone_builder.samples import SampleSet, open_samples, resolve_artifact
from isochrone_builder.versions import BUILDER_FORMAT, package_versions
from isochrone_executor.artifacts import is_whole, read_manifest
from isochrone_executor.backends.port import LoadedVariant
from isochrone_executor.backends.registry import open_backend

EVALUATION_BATCH_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Original:
    """The fp32 variant that the others of an architecture are compared with.

    ``scores``: its answers on the validation rows; None where there are none.
    """

    sha256: str
    scores: NDArray[np.floating] | None


class Source:
    """One architecture's artifact, checked at once, and read when a variant must be made of it."""

    def __init__(self, request: BuildRequest, architecture: ArchitectureRequest) -> None:
        if architecture.format not in FORMATS:
            message = (
                f"{architecture.uri}: format {architecture.format} is not known: use one of "
                f"{', '.join(FORMATS)}"
            )
            raise ArtifactError(message)
        self.form = architecture.format
        self.name = architecture.name
        self.path, self.sha256 = resolve_artifact(architecture.uri, architecture.sha256)
        self._request = request
        self._maker: VariantMaker | None = None

    def maker(self) -> VariantMaker:
        """Return what makes variants of this architecture; raises ``ArtifactError`` as that does."""
        if self._maker is None:
            self._maker = open_artifact(self._request, self.name, self.form, self.path)
        return self._maker


class Workbench:
    """Makes and measures variants of one Model; ``threads`` is how many cores the measuring may use.

    Raises ``ManifestError`` or ``ArtifactError`` when the validation set cannot be used.
    """

    def __init__(self, request: BuildRequest, store: Path, *, threads: int) -> None:
        self._request = request
        self._store = store
        self._threads = threads
        self._records = Records(store)
        self._samples: SampleSet | None = None
        if request.validation_uri is not None:
            self._samples = open_samples(
                request.validation_uri, request.inputs, request.validation_sha256
            )

    @property
    def measures(self) -> bool:
        """Whether there are rows to run variants on."""
        return self._samples is not None

    @property
    def labeled(self) -> bool:
        """Whether accuracy can be measured, rather than estimated."""
        return self._samples is not None and self._samples.labels is not None

    def original(self, source: Source) -> tuple[Original, bool]:
        """Return what variants of ``source`` are compared with, and whether its answers were known."""
        sha256, _ = self.generate(source, reference_backend(source.form), Precision.FP32)
        scores, cached = self._scores(sha256)
        return Original(sha256, scores), cached

    def generate(
        self, source: Source, backend: BackendName, precision: Precision
    ) -> tuple[str, bool]:
        """Return the digest of one variant in the store, and whether it was there already."""
        require_makeable(backend, precision)
        calibration = self._samples.calibration if self._samples is not None else None
        calibrated = precision is Precision.INT8 and self._samples is not None
        made = recipe(backend, precision)
        key = key_of(
            builder=[BUILDER_FORMAT, made] if made else BUILDER_FORMAT,
            model=qualify(self._request.namespace, self._request.name),
            architecture=source.name,
            artifact=source.sha256,
            format=source.form,
            inputs=msgspec.to_builtins(self._request.inputs),
            outputs=msgspec.to_builtins(self._request.outputs),
            backend=backend.value,
            precision=precision.value,
            batch_sizes=self._request.batch_sizes,
            calibration=self._samples.digest if calibrated and self._samples else None,
            versions=package_versions(),
        )
        known = self._records.read("variants", key)
        if isinstance(known, str) and is_whole(self._store, known):
            return known, True
        sha256 = source.maker().make(self._store, backend, precision, calibration)
        self._records.write("variants", key, sha256)
        return sha256, False

    def accuracy(
        self,
        sha256: str,
        precision: Precision,
        declared_ppm: PartsPerMillion | None,
        original: Original | None,
    ) -> tuple[Accuracy, bool]:
        """Return how accurate the variant ``sha256`` is, and whether that was known already.

        ``declared_ppm`` is what is declared of its ``original``, which labels can do without. Raises
        ``ManifestError`` when there is nothing to tell it by, ``ArtifactError`` when it does not run
        or its answers do not fit.
        """
        metric, samples = self._request.metric, self._samples
        if not self.labeled and original is not None and sha256 == original.sha256:
            return accuracy.declared(declared_ppm, metric), False
        if samples is None:
            if precision is Precision.FP32:
                return accuracy.declared(declared_ppm, metric), False
            message = f"accuracy in {precision.value} is unknown: no validation set"
            raise ManifestError(message)
        reference = None if original is None else original.scores
        if samples.labels is None and reference is None:
            message = (
                "there is nothing to compare it with: give the Model its architecture (spec.architectures), "
                "or the validation set a tensor validation/label"
            )
            raise ManifestError(message)
        key = key_of(
            builder=BUILDER_FORMAT,
            variant=sha256,
            reference=None if original is None else original.sha256,
            samples=samples.digest,
            metric=metric.value,
            declared=declared_ppm,
            versions=package_versions(),
        )
        known = self._records.read("accuracy", key)
        if known is not None:
            return msgspec.convert(known, Accuracy), True
        scores = reference
        if scores is None or original is None or sha256 != original.sha256:
            scores = evaluate(self._store, sha256, samples, threads=self._threads)
        if samples.labels is not None:
            found = accuracy.measured(scores, samples.labels, metric, reference)
        else:
            assert reference is not None, "it was asked for above"
            found = accuracy.unlabeled(scores, declared_ppm, metric, reference)
        self._records.write("accuracy", key, msgspec.to_builtins(found))
        return found, False

    def _scores(self, sha256: str) -> tuple[NDArray[np.floating] | None, bool]:
        """Return the original's answers, and whether they were known; None without samples."""
        if self._samples is None:
            return None, True
        key = key_of(
            builder=BUILDER_FORMAT,
            variant=sha256,
            samples=self._samples.digest,
            versions=package_versions(),
        )
        path = self._records.path("scores", key)
        if path.is_file():
            known: NDArray[np.floating] = np.load(path, allow_pickle=False)
            return known, True
        scores = evaluate(self._store, sha256, self._samples, threads=self._threads)
        buffer = io.BytesIO()
        np.save(buffer, scores, allow_pickle=False)
        self._records.write_bytes("scores", key, buffer.getvalue())
        return scores, False


def evaluate(store: Path, sha256: str, samples: SampleSet, *, threads: int) -> NDArray[np.floating]:
    """Return the first output of variant ``sha256`` for every validation row, in order.

    Runs the variant as the executor does, through its backend, in ``threads`` lanes of one core
    each: batches are independent, and lanes that never wait for one another lose little when other
    programs take part of a core. What runs beside the cores has one lane, and one copy in its memory.
    """
    manifest, directory = read_manifest(store, sha256)
    if not runs_on(manifest.backend, Vendor.CPU):
        threads = 1
    fitting = [size for size in manifest.batch_sizes if size <= EVALUATION_BATCH_MAX]
    batch = fitting[-1] if fitting else manifest.batch_sizes[0]
    output = manifest.outputs[0]
    scores = np.empty((samples.count, output.row_elements), NUMPY_DTYPES[output.datatype])
    backend = open_backend(manifest.backend)

    def load() -> LoadedVariant:
        return backend.load(manifest, directory, threads=1, batch_sizes=(batch,))

    # The first load imports the engine. Two threads that do so at once have waited for each other for ever.
    first = load()

    def run_lane(lane: int) -> None:
        loaded = load() if lane else first
        for start in range(lane * batch, samples.count, threads * batch):
            rows = slice(start, min(start + batch, samples.count))
            for view, array in zip(loaded.inputs(batch), samples.validation, strict=True):
                part = np.ascontiguousarray(array[rows])
                view[: part.nbytes] = part.reshape(-1).view(np.uint8).data
            loaded.run(batch)
            answers = np.frombuffer(loaded.outputs(batch)[0], dtype=scores.dtype)
            scores[rows] = answers.reshape(batch, -1)[: rows.stop - start]
        loaded.close()

    with ThreadPoolExecutor(max_workers=threads) as lanes:
        list(lanes.map(run_lane, range(threads)))
    return scores
