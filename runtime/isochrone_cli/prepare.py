"""From manifests to everything that a plan needs: variants built, measured and profiled here.

Called by ``plan``, ``up`` and ``demo``. What an earlier run did is taken from the store.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isochrone.api import convert
from isochrone.api.inferenceservice import Approval
from isochrone.api.manifests import Manifests
from isochrone.api.model import Architecture, Model
from isochrone.build_document import FetchRequest, SourceRequest, is_fetched, runs_on
from isochrone.catalog import Catalog, Profile, Variant
from isochrone.demand import Demand
from isochrone.errors import ArtifactError, ManifestError, SetupError
from isochrone.fleet import Fleet, Pool
from isochrone.ids import ModelId
from isochrone.plan_document import PlanDocument
from isochrone.planning import Problem, plan
from isochrone.units import MILLISECOND, parse_ratio
from isochrone_cli.console import Say, follow
from isochrone_cli.machine import Machine, local_host
from isochrone_cli.written import take_written

if TYPE_CHECKING:  # the builder imports torch, which takes seconds: only when something is built
    from isochrone_builder.request import ArchitectureRequest, BuildRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and measured, and the plan that came of it."""

    document: PlanDocument
    fleet: Fleet
    demand: Demand

    @property
    def catalog(self) -> Catalog:
        """Every model and variant, with profiles."""
        return self.document.catalog


def prepare(manifests: Manifests, machine: Machine, store: Path, say: Say) -> Prepared:
    """Return the plan for ``manifests`` on ``machine``, after building and profiling what it needs.

    Raises ``ManifestError`` when there is nothing to serve or nothing to serve it on.
    """
    fleet = fleet_here(manifests, machine, say)
    demand = convert.demand(manifests.services, manifests.budgets, _namespaces(manifests))
    if not demand.services:
        message = "the manifests hold no InferenceService: there is nothing to plan"
        raise ManifestError(message)
    for line in unheeded(manifests):
        say(line)
    catalog = build_catalog(manifests, fleet, machine, store, say)
    planned = plan(Problem(catalog=catalog, fleet=fleet, demand=demand))
    return Prepared(
        document=PlanDocument(plan=planned, catalog=catalog), fleet=fleet, demand=demand
    )


def unheeded(manifests: Manifests) -> tuple[str, ...]:
    """Return, as sentences, what services and models declare and local mode does not carry out."""
    lines: list[str] = []
    for service in manifests.services:
        name, spec = f"service {service.metadata.name}", service.spec
        if spec.approval is not Approval.AUTOMATIC:
            lines.append(f"{name}: approval {spec.approval.value} acts as Automatic here")
        if spec.scaling.scale_to_zero_after is not None:
            lines.append(f"{name}: scaling.scaleToZeroAfter has no effect here")
        if spec.pod_template.model_fields_set:
            lines.append(f"{name}: podTemplate has no effect without pods")
    for model in manifests.models:
        validation = model.spec.accuracy.validation_set
        named = (*(it.artifact for it in model.spec.architectures), validation)
        if any(it is not None and it.secret_ref is not None for it in named):
            lines.append(
                f"model {model.metadata.name}: secretRef has no effect here: the credentials are those "
                "of this command's environment (AWS_PROFILE, HF_TOKEN, …)"
            )
    return tuple(lines)


def fleet_here(manifests: Manifests, machine: Machine, say: Say) -> Fleet:
    """Return the local pools of ``manifests``, all on ``machine``; say which others are left out.

    Raises ``ManifestError`` when there is no local pool.
    """
    every = convert.fleet(manifests.pools, _namespaces(manifests), ())
    local = tuple(pool for pool in every.pools if pool.engine.value == "local")
    for pool in every.pools:
        if pool not in local:
            say(f"pool {pool.id}: needs a cluster (spec.{pool.engine.value}); left out here")
    if not local:
        message = "the manifests hold no AcceleratorPool with `local: {}`: nothing can run here"
        raise ManifestError(message)
    return Fleet(pools=local, hosts=(local_host(local, machine),))


def build_catalog(
    manifests: Manifests, fleet: Fleet, machine: Machine, store: Path, say: Say
) -> Catalog:
    """Return every variant of the models of ``manifests``, profiled on every local pool.

    So are the ModelVariants that somebody wrote by hand, where their artifacts are in ``store``; others
    are used as their own status has them (see ``written``).
    """
    signatures = tuple(convert.model(model) for model in manifests.models)
    by_hand = convert.catalog(manifests.models, manifests.variants).variants
    requests = {ModelId(it.identity): _request(it, store, say) for it in manifests.models}
    names = frozenset(it.id for it in by_hand)
    built = [
        variant
        for request in requests.values()
        for variant in _build(request, machine, store, say)
        if variant.id not in names
    ]
    written = take_written(by_hand, requests, machine, store, say)
    profiled = _profile([*built, *written.here], fleet, machine, store, say)
    variants = sorted((*written.elsewhere, *profiled), key=lambda variant: variant.id)
    return Catalog(models=signatures, variants=tuple(variants))


def _request(model: Model, store: Path, say: Say) -> "BuildRequest":
    from isochrone_builder.request import BuildRequest  # noqa: PLC0415 - see the top
    from isochrone_builder.sources import localized  # noqa: PLC0415

    signature = convert.model(model)
    validation = model.spec.accuracy.validation_set
    request = BuildRequest(
        namespace=model.metadata.namespace,
        name=model.metadata.name,
        task=model.spec.task,
        metric=signature.metric,
        inputs=signature.inputs,
        outputs=signature.outputs,
        validation_uri=None if validation is None else validation.uri,
        validation_sha256=None if validation is None else validation.sha256,
        architectures=tuple(
            _architecture(architecture) for architecture in model.spec.architectures
        ),
        precisions=model.spec.variants.precisions,
        backends=model.spec.variants.backends,
        batch_sizes=model.spec.variants.batch_sizes,
    )
    return localized(_fetched(request, store, say), None, store)


def _build(request: "BuildRequest", machine: Machine, store: Path, say: Say) -> tuple[Variant, ...]:
    from isochrone_builder.build import build_model  # noqa: PLC0415 - see the top

    with say.steps(f"building {request.name}") as done:
        made = build_model(request, store, follow(done), threads=len(machine.cores))
    for failure in made.failures:
        say(f"  not made: {failure.name}: {failure.reason}")
    return made.variants


def _fetched(request: "BuildRequest", store: Path, say: Say) -> "BuildRequest":
    """Return ``request`` with the digests of what it names elsewhere, after that was fetched.

    Credentials are those that the clients find in the environment. An architecture that cannot be
    fetched is left out, and said. Raises ``ArtifactError`` when the validation set cannot be.
    """
    wanted = {it.uri: it.sha256 for it in request.architectures if is_fetched(it.uri)}
    validation = request.validation_uri
    if validation is not None and is_fetched(validation):
        wanted[validation] = request.validation_sha256
    if not wanted:
        return request
    from isochrone_builder.fetching import fetch_sources  # noqa: PLC0415 - its clients take seconds

    sources = tuple(
        SourceRequest(uri=uri, sha256=sha256, secret=None) for uri, sha256 in sorted(wanted.items())
    )
    with say.steps(f"fetching the files of {request.name}") as done:
        found = fetch_sources(FetchRequest(sources=sources), store, None, follow(done))
    for failure in found.failures:
        if failure.uri == validation:
            raise ArtifactError(failure.reason)
        say(f"  not fetched: {failure.reason}")
    digests = {it.uri: it.sha256 for it in found.fetched}
    return replace(
        request,
        validation_sha256=digests.get(validation or "", request.validation_sha256),
        architectures=tuple(
            replace(it, sha256=digests.get(it.uri, it.sha256))
            for it in request.architectures
            if it.uri in digests or it.uri not in wanted
        ),
    )


def _architecture(given: Architecture) -> "ArchitectureRequest":
    from isochrone_builder.request import ArchitectureRequest  # noqa: PLC0415

    return ArchitectureRequest(
        name=given.name,
        uri=given.artifact.uri,
        format=given.artifact.format.value,
        sha256=given.artifact.sha256,
        accuracy_ppm=None if given.accuracy is None else parse_ratio(given.accuracy),
    )


def _profile(
    variants: list[Variant], fleet: Fleet, machine: Machine, store: Path, say: Say
) -> list[Variant]:
    profiled = variants
    for pool in fleet.pools:
        cores = profiling_cores(pool, machine)
        if cores is None:
            say(f"  not profiled on {pool.id}: it needs {pool.cores} cores, this machine has fewer")
            continue
        lacking = [
            it
            for it in profiled
            if it.profile(pool.id) is None and runs_on(it.backend, pool.vendor)
        ]
        profiles = _profile_on(pool, cores, lacking, store, say)
        found = {it.id: (profile,) for it, profile in zip(lacking, profiles, strict=True)}
        profiled = [replace(it, profiles=(*it.profiles, *found.get(it.id, ()))) for it in profiled]
    return profiled


def _profile_on(
    pool: Pool, cores: tuple[int, ...], variants: list[Variant], store: Path, say: Say
) -> tuple[Profile, ...]:
    from isochrone_builder.profile import profile_variants  # noqa: PLC0415 - see the top
    from isochrone_builder.request import ProfileBudget  # noqa: PLC0415

    # Half of what a Job takes: somebody waits, and what is served corrects the median.
    budget = ProfileBudget(cell_ns=750 * MILLISECOND, cell_max_ns=1_500 * MILLISECOND)
    with say.steps(f"profiling on {pool.id}") as done:
        lead = f"{pool.id}:"
        profiles = profile_variants(variants, pool, cores, store, follow(done, lead), budget)
    noisy = sum(it.noise is not None and it.noise.noisy for it in profiles)
    if noisy:
        say(
            f"  {noisy} of {len(profiles)} variants were measured under noise on {pool.id}, and may be "
            "faster than it seems: they are measured again by a run in ten minutes or later"
        )
    return profiles


def profiling_cores(pool: Pool, machine: Machine) -> tuple[int, ...] | None:
    """Return the cores to measure ``pool`` on: the last ones, where executors run too."""
    if pool.cores > len(machine.cores):
        return None
    return machine.cores[-pool.cores :]


def require_routes(prepared: Prepared) -> None:
    """Raise ``SetupError`` when not one service could be planned."""
    if not prepared.document.plan.services:
        message = "no service can be met on this machine; the plan above says why"
        raise SetupError(message)


def _namespaces(manifests: Manifests) -> dict[str, dict[str, str]]:
    named = {
        *(model.metadata.namespace for model in manifests.models),
        *(service.metadata.namespace for service in manifests.services),
    }
    return {name: {} for name in sorted(named)}
