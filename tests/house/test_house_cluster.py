"""The test cluster's own parts that need no root: children, waiting, what is missing, settings."""

import json
import os
import re
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Final

import pytest

from isochrone_cluster import cgroups, package_index, programs, requirements
from isochrone_cluster.control_plane import programs as control_plane
from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.places import MODULES, NODES
from isochrone_cluster.processes import Children, Program

WAIT_S: Final = 30.0


@pytest.fixture
def children(tmp_path: Path) -> Children:
    """Return children whose records, logs and admitting file lie in a folder of the test."""
    return Children(folder=tmp_path / "run", logs=tmp_path / "log", admit=tmp_path / "procs")


def shell(name: str, script: str) -> Program:
    return Program(name=name, command=("/bin/sh", "-c", script))


def test_a_child_is_admitted_to_its_group_and_found_again_by_another_process(
    children: Children, tmp_path: Path
) -> None:
    pid = children.start(shell("server", "echo up; exec sleep 600"))
    children.wait("server", "it is up", lambda: "up" in children.tail("server"), timeout_s=WAIT_S)
    assert (tmp_path / "procs").read_text().split() == [str(pid)]
    script = (
        "import sys; from pathlib import Path; from isochrone_cluster.processes import Children\n"
        "at = Path(sys.argv[1])\n"
        "found = Children(folder=at / 'run', logs=at / 'log', admit=at / 'procs')\n"
        "assert found.alive('server'); found.stop('server'); print(found.alive('server'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(MODULES)}
    said = run([sys.executable, "-c", script, tmp_path], environment=environment)
    assert said == "False\n"
    assert not children.alive("server")


def test_a_child_that_ends_by_itself_is_reported_with_the_end_of_its_log(
    children: Children,
) -> None:
    children.start(shell("weak", "echo out of luck >&2; exit 3"))
    with pytest.raises(ClusterError, match=r"weak has ended by itself\n.*\nout of luck"):
        children.wait("weak", "it is up", lambda: None, timeout_s=WAIT_S)


def test_a_process_that_took_over_the_number_of_a_child_is_not_the_child(
    children: Children, tmp_path: Path
) -> None:
    children.start(shell("old", "exec sleep 600"))
    children.stop("old", hard=True)
    record = tmp_path / "run" / "old.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": os.getpid()}))
    assert not children.alive("old")
    children.stop("old")  # which must not end this test's own process


def test_a_child_starts_again_as_it_was_started(children: Children) -> None:
    children.start(
        Program(name="c", command=("/bin/sh", "-c", "echo $WORD"), environment={"WORD": "once"})
    )
    wait_until("it ends", lambda: not children.alive("c"), timeout_s=WAIT_S)
    children.start_again("c")
    wait_until("it ends", lambda: not children.alive("c"), timeout_s=WAIT_S)
    assert children.tail("c").count("once") == 2


def test_a_wait_in_vain_says_for_what_why_and_what_the_log_says() -> None:
    def probe() -> bool:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(ClusterError) as raised:
        wait_until("the server answers", probe, timeout_s=0.0, log=lambda: "its last words")
    assert str(raised.value) == (
        "waited 0 s in vain: the server answers\nlast attempt: nobody there\nits last words"
    )


def test_what_is_missing_is_said_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "PLUGINS", tmp_path)
    monkeypatch.setattr(cgroups, "MOUNTS", Path(os.devnull))
    said = "\n".join(requirements.missing())
    assert re.search(r"^Go \d\.\d+ or later is not on the PATH$", said, re.MULTILINE)
    assert "apt-get install buildah catatonit conntrack containerd" in said
    assert "no control group hierarchy" in said


def test_the_package_index_of_the_host_reaches_pip_and_uv(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://other.example/simple")
    package_index.pip_settings.cache_clear()
    options = package_index.mounts(tmp_path)
    package_index.pip_settings.cache_clear()
    assert f"{tmp_path}/pip.conf:/etc/pip.conf:ro" in options
    pip = ConfigParser(interpolation=None)
    pip.read(tmp_path / "pip.conf")
    assert pip["global"]["index-url"] == "https://index.example/simple"
    uv = tomllib.loads((tmp_path / "uv.toml").read_text())
    assert [(index["url"], index.get("default", False)) for index in uv["index"]] == [
        ("https://other.example/simple", False),
        ("https://index.example/simple", True),
    ]


def test_an_executable_is_known_by_all_of_its_modules_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "MODULES", tmp_path)
    monkeypatch.setattr(programs, "run", lambda _: "go1.26.0\namd64\n")
    source = programs.Source(module="m")
    (tmp_path / "m").mkdir()
    digests: set[str] = set()
    for name in ("go.mod", "go.sum", "main.go"):
        (tmp_path / "m" / name).touch()
        digests.add(programs.digest(source))
        (tmp_path / "m" / name).write_text("changed")
        digests.add(programs.digest(source))
    assert len(digests) == 6


def test_all_of_kubernetes_is_of_one_version() -> None:
    for module in ("binary", "argocd"):
        text = (MODULES / module / "go.mod").read_text(encoding="utf-8")
        replaced = re.findall(r"^\tk8s\.io/\S+ => k8s\.io/\S+ (\S+)$", text, re.MULTILINE)
        assert len(replaced) > 20
        assert set(replaced) == {"v0.34.4"}
    assert "k8s.io/kubernetes v1.34.4" in (MODULES / "binary" / "go.mod").read_text()
    assert "gitVersion=v1.34.4" in programs.CLUSTER.stamp


def test_no_two_parts_of_the_control_plane_have_one_name_and_no_two_nodes_one_address() -> None:
    parts = control_plane(Path("/bin/true"), beside=1)
    assert [part.name for part in parts.values()] == list(parts)
    assert len({node.address for node in NODES} | {node.pod_range for node in NODES}) == 4
