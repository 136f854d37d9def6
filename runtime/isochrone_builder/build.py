"""Makes a model's variants and finds out how accurate they are. Entry point: ``build_model``.

Called by the command line, and by the builder's Jobs. The steps of one architecture are: import
(read the artifact as data), generate (each backend × precision), reference (the fp32 graph's
answers on the validation rows), accuracy (each variant against labels or against the reference).
Each is recorded by the digest of what it depends on, so that a second run, or one after a kill,
does only what is left. What cannot be made is reported with its reason, and the others go on.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from isochrone.build_document import variant_name
from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    Artifact,
    BackendName,
    Precision,
    Variant,
)
from isochrone.dtypes import NUMPY_DTYPES
from isochrone.errors import ArtifactError, IsochroneError, ManifestError
from isochrone.ids import ModelId, VariantId, qualify
from isochrone_builder import accuracy
from isochrone_builder.combinations import recipe, require_makeable
from isochrone_builder.intake import FORMATS, VariantMaker, open_artifact, reference_backend
from isochrone_builder.records import Records, discard_staging, exclusive, key_of
from isochrone_builder.request import (
    ArchitectureRequest,
    BuildReport,
    BuildRequest,
    Failure,
    Progress,
    ProgressSink,
)
from isochrone_builder.samples import SampleSet, open_samples, resolve_artifact
from isochrone_builder.versions import BUILDER_FORMAT, package_versions
from isochrone_executor.artifacts import is_whole, read_manifest, variant_directory
from isochrone_executor.backends.registry import open_backend

VARIANT_FORMAT: Final = "isochrone-variant"
EVALUATION_BATCH_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class _Combination:
    """One variant to make."""

    name: str
    architecture: ArchitectureRequest
    backend: BackendName
    precision: Precision


def build_model(
    request: BuildRequest, store: Path, progress: ProgressSink, *, threads: int = 2
) -> BuildReport:
    """Make every variant that ``request`` asks for, in ``store``, and measure its accuracy.

    ``threads`` is how many cores the measuring may use. Raises ``ManifestError`` or
    ``ArtifactError`` when the validation set cannot be used, ``CapacityError`` when another
    builder keeps the store; whatever concerns single variants is in the report's failures.
    """
    with exclusive(store) as locked:
        if locked:
            discard_staging(store)
        samples = None
        if request.validation_uri is not None:
            samples = open_samples(
                request.validation_uri, request.inputs, request.validation_sha256
            )
        run = _Run(
            request=request, store=store, samples=samples, progress=progress, threads=threads
        )
        for architecture in request.architectures:
            run.build_architecture(architecture)
        return run.report()


class _Run:
    """One call of ``build_model``: its inputs, and what it has made so far."""

    def __init__(
        self,
        *,
        request: BuildRequest,
        store: Path,
        samples: SampleSet | None,
        progress: ProgressSink,
        threads: int,
    ) -> None:
        self._request = request
        self._store = store
        self._samples = samples
        self._progress = progress
        self._threads = threads
        self._records = Records(store)
        self._variants: list[Variant] = []
        self._failures: list[Failure] = []
        self._names: dict[str, str] = {}
        self._done = 0
        # Each variant is generated and measured; each architecture has a reference besides.
        combinations = len(request.backends) * len(request.precisions)
        self._total = len(request.architectures) * (2 * combinations + 1)

    def report(self) -> BuildReport:
        """Return what was made, sorted."""
        return BuildReport(
            variants=tuple(sorted(self._variants, key=lambda variant: variant.id)),
            failures=tuple(sorted(self._failures, key=lambda failure: failure.name)),
        )

    def build_architecture(self, architecture: ArchitectureRequest) -> None:
        """Make and measure every variant of one architecture."""
        combinations = self._combinations(architecture)
        try:
            source = _Source(self._request, architecture)
            backend = reference_backend(source.form)
            reference = self._generate(source, backend, Precision.FP32)[0]
            scores, cached = self._scores(reference)
        except IsochroneError as error:
            self._failures += [Failure(name=each.name, reason=str(error)) for each in combinations]
            self._done += 2 * len(combinations) + 1
            self._tell("failed", architecture.name, cached=False, steps=0)
            return
        self._tell("reference", architecture.name, cached=cached)
        for combination in combinations:
            self._build_variant(combination, source, reference, scores)

    def _build_variant(
        self,
        combination: _Combination,
        source: "_Source",
        reference: str,
        scores: NDArray[np.floating] | None,
    ) -> None:
        backend, precision = combination.backend, combination.precision
        ends = self._done + 2
        try:
            self._claim(combination)
            require_makeable(backend, precision)
            sha256, cached = self._generate(source, backend, precision)
            self._tell("generate", combination.name, cached=cached)
            measured, cached = self._accuracy(combination, sha256, reference, scores)
            self._tell("accuracy", combination.name, cached=cached)
        except IsochroneError as error:
            self._failures.append(Failure(name=combination.name, reason=str(error)))
            self._tell("failed", combination.name, cached=False, steps=ends - self._done)
            return
        namespace = self._request.namespace
        self._variants.append(
            Variant(
                id=VariantId(qualify(namespace, combination.name)),
                model=ModelId(qualify(namespace, self._request.name)),
                architecture=combination.architecture.name,
                precision=precision,
                backend=backend,
                batch_sizes=self._request.batch_sizes,
                artifact=Artifact(
                    uri=f"file:{variant_directory(self._store, sha256)}",
                    format=VARIANT_FORMAT,
                    sha256=sha256,
                ),
                accuracy=measured,
                profiles=(),
            )
        )

    def _claim(self, combination: _Combination) -> None:
        """Raise ``ManifestError`` when another architecture's variant has the same name."""
        first = self._names.setdefault(combination.name, combination.architecture.name)
        if first != combination.architecture.name:
            message = (
                f"architectures {first} and {combination.architecture.name} both lead to variants "
                f"named {combination.name}: rename one of them"
            )
            raise ManifestError(message)

    def _combinations(self, architecture: ArchitectureRequest) -> list[_Combination]:
        return [
            _Combination(
                variant_name(self._request.name, architecture.name, backend, precision),
                architecture,
                backend,
                precision,
            )
            for backend in self._request.backends
            for precision in self._request.precisions
        ]

    def _generate(
        self, source: "_Source", backend: BackendName, precision: Precision
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

    def _accuracy(
        self,
        combination: _Combination,
        sha256: str,
        reference: str,
        reference_scores: NDArray[np.floating] | None,
    ) -> tuple[Accuracy, bool]:
        """Return a variant's accuracy, and whether it was known already."""
        metric, samples = self._request.metric, self._samples
        declared_ppm = combination.architecture.accuracy_ppm
        unlabeled = samples is None or samples.labels is None
        if unlabeled and sha256 == reference:
            return accuracy.declared(declared_ppm, metric), False
        if samples is None or reference_scores is None:
            if combination.precision is Precision.FP32:
                return accuracy.declared(declared_ppm, metric), False
            message = f"accuracy in {combination.precision.value} is unknown: no validation set"
            raise ManifestError(message)
        key = key_of(
            builder=BUILDER_FORMAT,
            variant=sha256,
            reference=reference,
            samples=samples.digest,
            metric=metric.value,
            declared=declared_ppm,
            versions=package_versions(),
        )
        known = self._records.read("accuracy", key)
        if known is not None:
            return msgspec.convert(known, Accuracy), True
        scores = reference_scores
        if sha256 != reference:
            scores = evaluate(self._store, sha256, samples, threads=self._threads)
        if samples.labels is not None:
            found = accuracy.measured(scores, samples.labels, metric, reference_scores)
        elif metric is AccuracyMetric.MAE:
            found = accuracy.estimated_mae(declared_ppm, reference_scores, scores)
        else:
            drop = accuracy.expected_drop(reference_scores, scores)
            found = accuracy.estimated(declared_ppm, drop, metric)
        self._records.write("accuracy", key, msgspec.to_builtins(found))
        return found, False

    def _scores(self, sha256: str) -> tuple[NDArray[np.floating] | None, bool]:
        """Return the reference's answers, and whether they were known; None without samples."""
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

    def _tell(self, step: str, subject: str, *, cached: bool, steps: int = 1) -> None:
        self._done += steps
        self._progress(
            Progress(step=step, subject=subject, done=self._done, total=self._total, cached=cached)
        )


class _Source:
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


def evaluate(store: Path, sha256: str, samples: SampleSet, *, threads: int) -> NDArray[np.floating]:
    """Return the first output of variant ``sha256`` for every validation row, in order.

    Runs the variant as the executor does, through its backend, in ``threads`` lanes of one core
    each: batches are independent, and lanes that never wait for one another lose little when other
    programs take part of a core.
    """
    manifest, directory = read_manifest(store, sha256)
    fitting = [size for size in manifest.batch_sizes if size <= EVALUATION_BATCH_MAX]
    batch = fitting[-1] if fitting else manifest.batch_sizes[0]
    output = manifest.outputs[0]
    scores = np.empty((samples.count, output.row_elements), NUMPY_DTYPES[output.datatype])
    backend = open_backend(manifest.backend)

    def run_lane(lane: int) -> None:
        loaded = backend.load(manifest, directory, threads=1, batch_sizes=(batch,))
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
