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
from isochrone.catalog import Catalog, Profile, Variant
from isochrone.demand import Demand, OverloadPolicy
from isochrone.errors import ManifestError, SetupError
from isochrone.fleet import Fleet, Pool
from isochrone.plan_document import PlanDocument
from isochrone.planning import Problem, plan
from isochrone.units import parse_ratio
from isochrone_cli.console import Say
from isochrone_cli.machine import Machine, local_host

if TYPE_CHECKING:  # the builder imports torch, which takes seconds: only when something is built
    from isochrone_builder.request import ArchitectureRequest, Progress


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
    """Return, as sentences, what the services declare and local mode does not carry out."""
    lines: list[str] = []
    for service in manifests.services:
        name, spec = f"service {service.metadata.name}", service.spec
        if spec.overload.policy is not OverloadPolicy.REJECT:
            lines.append(
                f"{name}: overload.policy {spec.overload.policy.value} acts as Reject here"
            )
        if spec.approval is not Approval.AUTOMATIC:
            lines.append(f"{name}: approval {spec.approval.value} acts as Automatic here")
        if spec.scaling.scale_to_zero_after is not None:
            lines.append(f"{name}: scaling.scaleToZeroAfter has no effect here")
        if spec.pod_template.model_fields_set:
            lines.append(f"{name}: podTemplate has no effect without pods")
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

    Hand-written ModelVariants are used with the profiles of their own status.
    """
    signatures = tuple(convert.model(model) for model in manifests.models)
    written = convert.catalog(manifests.models, manifests.variants).variants
    built = [
        variant for model in manifests.models for variant in _build(model, machine, store, say)
    ]
    profiled = _profile(built, fleet, machine, store, say)
    variants = sorted((*written, *profiled), key=lambda variant: variant.id)
    return Catalog(models=signatures, variants=tuple(variants))


def _build(model: Model, machine: Machine, store: Path, say: Say) -> tuple[Variant, ...]:
    from isochrone_builder.build import build_model  # noqa: PLC0415 - see the top
    from isochrone_builder.request import BuildRequest  # noqa: PLC0415

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
        architectures=tuple(
            _architecture(architecture) for architecture in model.spec.architectures
        ),
        precisions=model.spec.variants.precisions,
        backends=model.spec.variants.backends,
        batch_sizes=model.spec.variants.batch_sizes,
    )

    with say.steps(f"building {request.name}") as done:

        def report(progress: "Progress") -> None:
            cached = " (cached)" if progress.cached else ""
            done(progress.done, progress.total, f"{progress.step} {progress.subject}{cached}")

        made = build_model(request, store, report, threads=len(machine.cores))
    for failure in made.failures:
        say(f"  not made: {failure.name}: {failure.reason}")
    return made.variants


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
        profiles = _profile_on(pool, cores, profiled, store, say)
        profiled = [
            replace(variant, profiles=(*variant.profiles, profile))
            for variant, profile in zip(profiled, profiles, strict=True)
        ]
    return profiled


def _profile_on(
    pool: Pool, cores: tuple[int, ...], variants: list[Variant], store: Path, say: Say
) -> tuple[Profile, ...]:
    from isochrone_builder.profile import profile_variants  # noqa: PLC0415 - see the top
    from isochrone_builder.request import ProfileBudget  # noqa: PLC0415

    with say.steps(f"profiling on {pool.id}") as done:

        def report(progress: "Progress") -> None:
            cached = " (cached)" if progress.cached else ""
            done(progress.done, progress.total, f"{pool.id}: {progress.subject}{cached}")

        return profile_variants(variants, pool, cores, store, report, ProfileBudget())


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
