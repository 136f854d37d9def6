"""ModelVariants that somebody wrote by hand, in local mode: their accuracy is found out as a Job would.

Called by ``prepare``. What the status of their manifest says was measured holds; what is only declared
holds until something was measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isochrone.build_document import ACCURACY_UNKNOWN, accuracy_request
from isochrone.catalog import AccuracySource, Precision, Variant
from isochrone.ids import ModelId
from isochrone_cli.console import Say, follow
from isochrone_cli.machine import Machine

if TYPE_CHECKING:  # the builder imports torch, which takes seconds: only when something is measured
    from isochrone_builder.request import AccuracyReport, BuildRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The variants that can be planned with: those that this machine's store holds, and the others."""

    here: tuple[Variant, ...]
    elsewhere: tuple[Variant, ...]


def take_written(
    variants: Sequence[Variant],
    requests: Mapping[ModelId, "BuildRequest"],
    machine: Machine,
    store: Path,
    say: Say,
) -> Written:
    """Return ``variants`` with what their accuracy was found to be, and say which are left out, and why.

    ``requests`` are what the builder is asked for their Models.
    """
    if not variants:
        return Written(here=(), elsewhere=())
    from isochrone_builder.declared import mismatch  # noqa: PLC0415 - see the top

    here: list[Variant] = []
    elsewhere: list[Variant] = []
    for variant in variants:
        request = requests[variant.model]
        known = variant.accuracy.source is not AccuracySource.DECLARED
        failure = mismatch(variant, request.inputs, request.outputs, store)
        if failure is None and not known:
            report = _judged(variant, request, machine, store, say)
            failure, found = report.failure, report.accuracy or variant.accuracy
            variant = replace(variant, accuracy=found)  # noqa: PLW2901
        if failure is None:
            here.append(variant)
        elif known:
            elsewhere.append(variant)
        elif failure.code == ACCURACY_UNKNOWN and variant.precision is Precision.FP32:
            here.append(variant)
            say(f"  {variant.id}: what is declared of its architecture stands in: {failure.reason}")
        else:
            say(f"  left out: {variant.id}: {failure.reason}")
    return Written(here=tuple(here), elsewhere=tuple(elsewhere))


def _judged(
    variant: Variant, request: "BuildRequest", machine: Machine, store: Path, say: Say
) -> "AccuracyReport":
    from isochrone_builder.judging import judge  # noqa: PLC0415 - see the top

    with say.steps(f"measuring the accuracy of {variant.id}") as done:
        asked = accuracy_request(request, variant)
        return judge(asked, store, follow(done), threads=len(machine.cores))
