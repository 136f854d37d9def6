"""Makes a model's variants and finds out how accurate they are. Entry point: ``build_model``.

Called by the command line, and by the builder's Jobs. The steps of one architecture are: import
(read the artifact as data), generate (each backend × precision), reference (the fp32 graph's
answers on the validation rows), accuracy (each variant against labels or against the reference).
Each is recorded by the digest of what it depends on, so that a second run, or one after a kill,
does only what is left. What cannot be made is reported with its reason, and the others go on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.build_document import variant_name
from isochrone.catalog import (
    Artifact,
    BackendName,
    Precision,
    Variant,
    declared_accuracy,
)
from isochrone.errors import IsochroneError, ManifestError
from isochrone.ids import ModelId, VariantId, qualify
from isochrone_builder.combinations import require_makeable
from isochrone_builder.records import discard_staging, exclusive
from isochrone_builder.request import (
    ArchitectureRequest,
    BuildReport,
    BuildRequest,
    Failure,
    Progress,
    ProgressSink,
)
from isochrone_builder.workbench import Original, Source, Workbench
from isochrone_executor.artifacts import variant_directory

VARIANT_FORMAT: Final = "isochrone-variant"


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
        run = _Run(
            request=request,
            store=store,
            bench=Workbench(request, store, threads=threads),
            progress=progress,
        )
        for architecture in request.architectures:
            run.build_architecture(architecture)
        return run.report()


class _Run:
    """One call of ``build_model``: its inputs, and what it has made so far."""

    def __init__(
        self, *, request: BuildRequest, store: Path, bench: Workbench, progress: ProgressSink
    ) -> None:
        self._request = request
        self._store = store
        self._bench = bench
        self._progress = progress
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
            source = Source(self._request, architecture)
            original, cached = self._bench.original(source)
        except IsochroneError as error:
            self._failures += [Failure(name=each.name, reason=str(error)) for each in combinations]
            self._done += 2 * len(combinations) + 1
            self._tell("failed", architecture.name, cached=False, steps=0)
            return
        self._tell("reference", architecture.name, cached=cached)
        for combination in combinations:
            self._build_variant(combination, source, original)

    def _build_variant(self, combination: _Combination, source: Source, original: Original) -> None:
        backend, precision = combination.backend, combination.precision
        ends = self._done + 2
        try:
            self._claim(combination)
            require_makeable(backend, precision)
            sha256, cached = self._bench.generate(source, backend, precision)
            self._tell("generate", combination.name, cached=cached)
            declared_ppm = combination.architecture.accuracy_ppm
            if backend in self._request.elsewhere and self._bench.measures:
                measured = declared_accuracy(declared_ppm, precision, self._request.metric)
            else:
                measured, cached = self._bench.accuracy(sha256, precision, declared_ppm, original)
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

    def _tell(self, step: str, subject: str, *, cached: bool, steps: int = 1) -> None:
        self._done += steps
        self._progress(
            Progress(step=step, subject=subject, done=self._done, total=self._total, cached=cached)
        )
