"""The local cluster's beginning and end: what is left behind when all goes well, and when it does not.

Runs before the other end-to-end tests (see ``conftest``), since one machine holds one cluster.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from isochrone_cluster import places, requirements, sweep
from isochrone_cluster.cluster import Cluster, down
from isochrone_cluster.failures import run, wait_until
from isochrone_cluster.images import pause_name

pytestmark = pytest.mark.extended

UP_S: Final = 300.0
DOWN_S: Final = 120.0

OWNER: Final = """
import signal
import sys
from contextlib import nullcontext
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.lifeline import lifeline

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has it ignored

def say(line):
    print(line, flush=True)

with lifeline() if sys.argv[1] == "lifeline" else nullcontext():
    Cluster.start(kept=False, progress=say)
    say("up")
    sys.stdin.read()
"""
"""A process that starts a cluster, as the tests' fixtures do, and then waits for its end."""

POD: Final = """
apiVersion: v1
kind: Pod
metadata: {{name: left-over, namespace: default}}
spec:
  nodeName: node-2
  containers: [{{name: main, image: "{image}", imagePullPolicy: Never}}]
"""


def say(line: str) -> None:
    """Tell what is done; pytest shows it where a test fails."""
    sys.stdout.write(f"{line}\n")


def traces() -> dict[str, list[str]]:
    """Return what a cluster could leave on this machine, found without the cluster's own code."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    groups = run(["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", f"{places.CGROUP}*"])
    namespaces = json.loads(run(["lsns", "--json", "--type", "net", "--output", "NS,PID,COMMAND"]))
    ours = (str(places.DATA), str(places.CACHE / "nodes"))
    return {
        "processes": [c.decode() for c in commands if any(p.encode() in c for p in ours)],
        "mounts": [line for line in mounts if any(path in line for path in ours)],
        "links": [n for n in os.listdir("/sys/class/net") if n.startswith("isoc")],  # noqa: PTH208
        "routes": [r for r in run(["ip", "route"]).splitlines() if r.startswith("10.21")],
        "control groups": groups.splitlines(),
        "namespaces": sorted(str(row["ns"]) for row in namespaces["namespaces"]),
        "folders": [str(path) for path in (places.DATA, places.KUBECONFIG) if path.exists()],
    }


@pytest.fixture
def nothing() -> Iterator[dict[str, list[str]]]:
    """Lend the traces on a machine without a cluster; in the end there are no others."""
    if reasons := requirements.missing():
        pytest.skip("; ".join(reasons))
    running = Cluster.attach(progress=say)
    if running is not None and (user := running.user()) is not None:
        pytest.skip(f"a cluster runs on this machine already, {user}")
    down(say)
    before = traces()
    yield before
    down(say)


def start_owner(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(places.MODULES)},
    )


def wait_line(owner: subprocess.Popen[str], wanted: str) -> None:
    assert owner.stdout is not None
    for line in owner.stdout:
        say(line.rstrip())
        if wanted in line:
            return
    pytest.fail(f"the owner ended with {owner.wait()} before it said {wanted!r}")


def test_a_cluster_starts_over_the_ruins_of_a_killed_one_and_stops_without_a_trace(
    nothing: dict[str, list[str]],
) -> None:
    with start_owner("alone") as owner:
        wait_line(owner, "up")
        ruined = Cluster.attach(progress=say)
        assert ruined is not None
        ruined.kubectl.apply(POD.format(image=pause_name()))
        ruined.kubectl("wait", "--for=condition=Ready", "pod/left-over", "--timeout=60s")
        owner.kill()
    # The worst: the machine's memory ran out, and everything but the containers was killed.
    for name in ruined.children.names():
        ruined.children.stop(name, hard=True)
    assert any(line.startswith("process") for line in sweep.remains())

    cluster = Cluster.start(kept=False, progress=say)
    assert cluster.kubectl("get", "pods", "--output=name") == ""
    for node in cluster.nodes:
        assert node.ctr("containers", "list", "--quiet") == ""
    cluster.stop()
    assert sweep.remains() == ()
    assert traces() == nothing


def test_the_cluster_of_killed_tests_is_stopped(nothing: dict[str, list[str]]) -> None:
    with start_owner("lifeline") as owner:
        wait_line(owner, "up")
        assert sweep.remains() != ()
        owner.kill()
    wait_until("the lifeline stops the cluster", lambda: not sweep.remains(), timeout_s=DOWN_S)
    assert traces() == nothing


def test_an_interrupt_while_it_starts_leaves_nothing(nothing: dict[str, list[str]]) -> None:
    with start_owner("alone") as owner:
        wait_line(owner, "starting the control plane")
        etcd = places.LOGS / "etcd.log"
        wait_until("the first programs run", etcd.exists, timeout_s=UP_S)
        owner.send_signal(signal.SIGINT)
        assert owner.wait(timeout=DOWN_S) != 0
    assert sweep.remains() == ()
    assert traces() == nothing


def test_stopping_where_nothing_runs_is_no_error(nothing: dict[str, list[str]]) -> None:
    assert down(say) is False
    assert traces() == nothing
