"""``isochrone plan``: what would run, for how much, and why; nothing is started.

Variants that the store lacks are built and profiled first, as for ``up``. With ``--trace``, what the
plan would have made of a recorded or synthetic trace is simulated, and shown beside it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from isochrone.api import convert
from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.plan import PlanReason
from isochrone.units import parse_duration
from isochrone_cli.bounded import SEED_MAX, whole
from isochrone_cli.console import output, progress, sayer
from isochrone_cli.inputs import read_buildable
from isochrone_cli.machine import look
from isochrone_cli.plan_view import show_plan, show_variants
from isochrone_cli.prepare import Prepared, prepare
from isochrone_cli.store import add_store_argument

CELL: Final = "local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-f", "--filename", metavar="PATH", action="append", required=True,
        help="a manifest, a folder of manifests, or - (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table",
        help="table for people; json or yaml: ServingPlan objects (default: %(default)s)",
    )  # fmt: skip
    replay = parser.add_argument_group("what if")
    replay.add_argument(
        "--trace", metavar="FILE", type=Path,
        help="replay the requests of a recorded trace (JSON lines), or of lines of "
        "SERVICE,COUNT,COUNT,… per --slot, under this plan, in simulation; status 1 also when a "
        "service would miss its percentile",
    )  # fmt: skip
    replay.add_argument("--slot", default="60s", help="what one count is for (%(default)s)")
    replay.add_argument("--seed", type=whole(0, SEED_MAX), default=1, help="(%(default)s)")
    replay.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the replay over time (.png or .svg)"
    )
    add_store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print the plan. Status 1 when a service cannot be met, or would not be in the trace."""
    if options.trace is not None:
        return _what_if(options)
    if options.plot is not None:
        raise ManifestError("--plot: there is nothing to draw without --trace")
    say = sayer(progress())
    manifests = read_buildable(options.filename)
    prepared = prepare(manifests, look(), options.store, say)
    if options.output == "table":
        console = output()
        show_variants(console, prepared.catalog)
        console.print()
        show_plan(console, prepared.document.plan)
    else:
        sys.stdout.write(_document(prepared, options.output))
    return 0 if _met(prepared) else 1


def _what_if(options: argparse.Namespace) -> int:
    """Print the plan, and how the trace would go under it."""
    # The scheduler, the simulator and the drawing take a second to import: only for those who ask.
    from isochrone_cli import what_if, what_if_view  # noqa: PLC0415

    if options.plot is not None:
        what_if_view.check_plot(options.plot)
    try:
        slot_ns = parse_duration(options.slot)
    except ValueError as error:
        raise ManifestError(f"--slot: {error}") from error
    say = sayer(progress())
    manifests = read_buildable(options.filename)
    declared = [ServiceId(service.identity) for service in manifests.services]
    load = what_if.read_load(options.trace, declared, slot_ns=slot_ns, seed=options.seed)
    prepared = prepare(manifests, look(), options.store, say)
    say(f"replaying {options.trace}")
    ends = what_if.replay(prepared.document, load, seed=options.seed)
    loads = {service.id: service.load for service in prepared.demand.services}
    found = what_if.facts(prepared.document, loads, load, ends)
    if options.output == "table":
        console = output()
        show_plan(console, prepared.document.plan)
        console.print()
        console.print(what_if_view.table(found))
    else:
        head = {"trace": str(options.trace), "seed": options.seed}
        found = head | found | {"plan": _objects(prepared)}
        sys.stdout.write(_text(found, options.output))
    if options.plot is not None:
        what_if_view.draw(ends, load.duration_ns, options.plot)
        say(f"drawn to {options.plot}")
    return 0 if _met(prepared) and what_if.kept(found) else 1


def _met(prepared: Prepared) -> bool:
    explanations = prepared.document.plan.explanations
    return all(it.reason is PlanReason.FEASIBLE for it in explanations)


def _document(prepared: Prepared, form: str) -> str:
    objects = _objects(prepared)
    if form == "yaml":
        return yaml.safe_dump_all(objects, sort_keys=False)
    return _text({"apiVersion": "v1", "kind": "List", "items": objects}, form)


def _objects(prepared: Prepared) -> list[dict[str, Any]]:
    """Return the plan as ServingPlan objects."""
    plans = convert.serving_plans(prepared.document.plan, prepared.fleet, CELL)
    return [
        plan.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
        for plan in plans
    ]


def _text(value: dict[str, Any], form: str) -> str:
    if form == "yaml":
        return yaml.safe_dump(value, sort_keys=False)
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
