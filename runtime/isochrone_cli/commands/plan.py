"""``isochrone plan``: what would run, for how much, and why; nothing is started.

Variants that the store lacks are built and profiled first, as for ``up``.
"""

import argparse
import sys
from typing import Final

import msgspec
import yaml

from isochrone.api import convert
from isochrone.plan import PlanReason
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
    add_store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print the plan. Status 1 when a service cannot be met."""
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
    plan = prepared.document.plan
    met = all(it.reason is PlanReason.FEASIBLE for it in plan.explanations)
    return 0 if met else 1


def _document(prepared: Prepared, form: str) -> str:
    plans = convert.serving_plans(prepared.document.plan, prepared.fleet, CELL)
    objects = [
        plan.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
        for plan in plans
    ]
    if form == "yaml":
        return yaml.safe_dump_all(objects, sort_keys=False)
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    return msgspec.json.format(msgspec.json.encode(listed), indent=2).decode() + "\n"
