"""The commands behind the Makefile: ``up``, ``down``, ``status``, ``build``, ``install``."""

import argparse
import sys
import time
from pathlib import Path

from isochrone_cluster import programs, requirements, sweep
from isochrone_cluster.client_tools import tool
from isochrone_cluster.cluster import Cluster, down
from isochrone_cluster.failures import ClusterError
from isochrone_cluster.lifeline import lost
from isochrone_cluster.places import KUBECONFIG, LOGS


def say(line: str) -> None:
    """Tell the terminal what is being done."""
    sys.stderr.write(f"cluster: {line}\n")
    sys.stderr.flush()


def out(text: str) -> None:
    """Write a command's result."""
    sys.stdout.write(f"{text.rstrip()}\n")


def install() -> None:
    """Install Debian packages, build the executable and fetch the client tools."""
    if absent := requirements.absent_packages():
        say(f"installing Debian packages: {' '.join(absent)}")
    requirements.install()
    if reasons := requirements.missing():
        raise ClusterError("\n".join(reasons))
    programs.built(programs.CLUSTER, say)
    tool("kubectl")


def up() -> None:
    """Start a cluster to keep, unless one runs, and show its nodes."""
    install()
    began = time.monotonic()
    cluster = Cluster.attach(progress=say)
    if cluster is None or not cluster.kept:  # which raises where tests use one
        cluster = Cluster.start(kept=True, progress=say)
        say(
            f"ready after {time.monotonic() - began:.1f} s; logs in {LOGS}; stop: make cluster-down"
        )
    else:
        cluster.children.check()
        say("runs already")
    out(cluster.kubectl("get", "nodes", "--output=wide"))
    out(f"export KUBECONFIG={KUBECONFIG} PATH={tool('kubectl').parent}:$PATH")


def status() -> None:
    """Show the cluster's programs, or what there is of a cluster that does not run."""
    cluster = Cluster.attach(progress=say)
    if cluster is None:
        out("no cluster runs")
        for line in sweep.remains():
            out(f"left behind: {line}")
        return
    for name in cluster.children.names():
        out(f"{name:28} process {cluster.children.pid(name)}")
    out(cluster.kubectl("get", "nodes"))


def build(options: argparse.Namespace) -> None:
    """Build an image and bring it to the nodes of the running cluster."""
    cluster = Cluster.attach(progress=say)
    if cluster is None:
        raise ClusterError("no cluster runs: make cluster")
    if options.dockerfile is not None:
        pairs = dict(pair.split("=", 1) for pair in options.build_arg)
        cluster.images.build(
            options.dockerfile,
            tag=options.tag,
            context=options.context,
            build_args=pairs,
            target=options.target,
        )
    cluster.images.load(options.tag, cluster.nodes)


def main() -> int:
    """Run the command of the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="isochrone_cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "install", "missing", "lifeline"):
        commands.add_parser(name)
    building = commands.add_parser("build", help="build an image and import it into the nodes")
    building.add_argument("--dockerfile", type=Path, help="left out: import what was built before")
    building.add_argument("--tag", required=True)
    building.add_argument("--context", type=Path, default=Path())
    building.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    building.add_argument("--target")
    options = parser.parse_args()
    try:
        match options.command:
            case "up":
                up()
            case "down":
                out("stopped" if down(say) else "no cluster ran")
            case "status":
                status()
            case "install":
                install()
            case "lifeline":
                if lost():
                    say("the tests are gone: stopping their cluster")
                    down(say)
            case "missing":
                out("\n".join(requirements.missing()))
            case _:
                build(options)
    except ClusterError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
