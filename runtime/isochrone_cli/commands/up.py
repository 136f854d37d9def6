"""``isochrone up``: the manifests' services, on this machine, until interrupted."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

from isochrone.ids import split_qualified
from isochrone_cli.bounded import PORT_MAX, whole
from isochrone_cli.cell import Cell
from isochrone_cli.console import output, progress, sayer
from isochrone_cli.inputs import read_buildable
from isochrone_cli.machine import look
from isochrone_cli.plan_view import show_plan
from isochrone_cli.prepare import prepare, require_routes
from isochrone_cli.store import add_store_argument

WATCH_S: Final = 0.2
"""Pause between two looks at whether every process is still there."""

PORT: Final = 8080


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "-f", "--filename", metavar="PATH", action="append", required=True,
        help="a manifest, a folder of manifests, or - (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=whole(0, PORT_MAX), default=PORT,
        help="port to listen on; 0: any that is free (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--run-dir", metavar="DIR", type=Path,
        help="where sockets, logs and the trace go (default: a temporary folder, removed at exit)",
    )  # fmt: skip
    add_store_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Build, profile, plan and serve. Ends by an interrupt, with status 0, or by an error."""
    if options.run_dir is not None:
        return _serve(options, options.run_dir)
    with tempfile.TemporaryDirectory(prefix="isochrone-") as folder:
        return _serve(options, Path(folder))


def _serve(options: argparse.Namespace, run_directory: Path) -> int:
    say = sayer(progress())
    machine = look()
    prepared = prepare(read_buildable(options.filename), machine, options.store, say)
    console = output()
    show_plan(console, prepared.document.plan)
    require_routes(prepared)
    with Cell(
        prepared.document,
        fleet=prepared.fleet,
        machine=machine,
        store=options.store,
        run_directory=run_directory,
        listen=(options.host, options.port),
    ) as cell:
        # From here on Ctrl-C is how it ends, also where the gateway answers before this process has seen it.
        try:
            with say.waiting("loading the planned variants"):
                cell.wait_until_ready(say)
            console.print()
            for service in prepared.document.plan.services:
                _, name = split_qualified(service.service)
                console.print(f"serving {cell.url}/v2/models/{name}/infer", soft_wrap=True)
            admin_url = cell.admin_url
            console.print(f"metrics {admin_url}/metrics", soft_wrap=True)
            console.print("Ctrl-C stops everything.")
            while True:
                time.sleep(WATCH_S)
                cell.revive(say)
                if cell.is_reachable and cell.admin_url != admin_url:
                    admin_url = cell.admin_url
                    say(f"serving {cell.url} again; metrics {admin_url}/metrics")
        except KeyboardInterrupt:
            say("stopping")
    return 0
