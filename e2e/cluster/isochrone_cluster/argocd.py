"""Argo CD beside the control plane, with a git repository that it follows.

Its application controller and repository server run as processes, without its user interface. Used by
the tests of GitOps.
"""

import json
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isochrone_cluster import credentials
from isochrone_cluster.client_tools import tool
from isochrone_cluster.cluster import Cluster
from isochrone_cluster.failures import ClusterError, run, wait_until
from isochrone_cluster.places import CONTROL, DATA
from isochrone_cluster.processes import PATH, Program
from isochrone_cluster.programs import ARGOCD, built, module_folder
from isochrone_cluster.requirements import ARGOCD_PACKAGES, absent_packages

MODULE: Final = "github.com/argoproj/argo-cd/v3"
NAMESPACE: Final = "argocd"
FOLDER: Final = DATA / "argocd"
REDIS, GIT, REPOSITORIES, CONTROLLER = (
    f"argocd-{name}" for name in ("redis", "git", "repo-server", "controller")
)
REDIS_PORT: Final = 16379
GIT_PORT: Final = 9418
REPOSITORIES_PORT: Final = 18091
REPOSITORIES_METRICS_PORT: Final = 18092
CONTROLLER_METRICS_PORT: Final = 18093
RESYNC_S: Final = 5
"""How often an Application's repository is looked at for a new commit."""

APPLICATIONS: Final = "applications.argoproj.io"
KINDS: Final = ("crd/applications.argoproj.io", "crd/appprojects.argoproj.io")
BROUGHT: Final = "argocd.argoproj.io/tracking-id"
"""Annotation of what an Application has brought, other Applications among it."""
READY_S: Final = 120.0
DELETE_S: Final = 180.0
WRAPPERS: Final = ("git-verify-wrapper.sh", "gpg-wrapper.sh", "git-ask-pass.sh")
AUTHOR: Final = ("-c", "user.name=tests", "-c", "user.email=tests@example.invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A git repository: write files into ``folder``, then ``publish``; Argo CD follows ``url``."""

    folder: Path
    url: str

    def publish(self, message: str) -> str:
        """Commit all that ``folder`` holds; return the commit's id."""
        run(["git", "-C", self.folder, "add", "--all"])
        run(["git", "-C", self.folder, *AUTHOR, "commit", "--quiet", "--message", message])
        return run(["git", "-C", self.folder, "rev-parse", "HEAD"]).strip()


@contextmanager
def argocd(cluster: Cluster, *, settings: Mapping[str, str]) -> Iterator[Repository]:
    """Run Argo CD inside the block, over an empty repository, which is lent.

    ``settings`` are added to the ConfigMap ``argocd-cm``: health checks, for example. Applications
    belong into the namespace ``argocd``; the project ``default`` allows everything. At the end all
    Applications go, with what their finalizers say, and with Argo CD's CRDs and namespace. Raises
    ``ClusterError`` when a Debian package is missing, or a part does not become ready or ends by itself.
    """
    if absent := absent_packages(ARGOCD_PACKAGES):
        raise ClusterError(f"Argo CD needs: apt-get install {' '.join(absent)}")
    binary = built(ARGOCD, cluster.progress)
    source = module_folder(ARGOCD, MODULE)
    crds = f"--kustomize={source / 'manifests' / 'crds'}"
    repository = _folders(source)
    names: list[str] = []
    try:
        cluster.kubectl("apply", "--server-side", crds)
        cluster.kubectl.wait_established(*KINDS)
        _configure(cluster, source, settings)
        for program in _programs(binary, cluster.nodes[0].anchor):
            cluster.children.start(program)
            names.append(program.name)
        _wait_healthy(cluster, REPOSITORIES, REPOSITORIES_METRICS_PORT)
        _wait_healthy(cluster, CONTROLLER, CONTROLLER_METRICS_PORT)
        yield repository
        cluster.children.check(*names)
    finally:
        if CONTROLLER in names:  # which does what the Applications' finalizers ask for
            _delete_applications(cluster)
        for name in reversed(names):
            cluster.children.stop(name)
            cluster.children.forget(name)
        cluster.kubectl("delete", crds, "--ignore-not-found", timeout_s=DELETE_S)
        absent_is_fine = ("--ignore-not-found", "--wait=true")
        cluster.kubectl("delete", "namespace", NAMESPACE, *absent_is_fine, timeout_s=DELETE_S)
        shutil.rmtree(FOLDER)


def _delete_applications(cluster: Cluster) -> None:
    """Delete what a person applied, and wait until every Application is gone, those that these brought too.

    An Application that another one brought is left to that one's finalizer. Deleted by hand, it would be
    brought again; and a sync of several waves, which then waits for one that is being deleted to become
    healthy, never ends and holds up the deletion of the Application that syncs.
    """
    words = (APPLICATIONS, f"--namespace={NAMESPACE}")

    def remaining() -> list[dict[str, Any]]:
        return list(json.loads(cluster.kubectl("get", *words, "--output=json"))["items"])

    def waiting() -> str:
        lines = [f"{it['metadata']['name']}: {json.dumps(it.get('status'))}" for it in remaining()]
        return "\n".join([*lines, cluster.children.tail(CONTROLLER)])

    applied = [
        it["metadata"]["name"]
        for it in remaining()
        if BROUGHT not in it["metadata"].get("annotations", {})
    ]
    if applied:
        cluster.kubectl("delete", *words, *applied, "--wait=false")
    wait_until(
        "every Application is gone", lambda: not remaining(), timeout_s=DELETE_S, log=waiting
    )


def _folders(source: Path) -> Repository:
    """Make the scratch folders, the programs' PATH and the repository."""
    for name in ("bin", "home", "tmp", "gpg", "ssh", "tls", "git/repository"):
        (FOLDER / name).mkdir(parents=True)
    for name in WRAPPERS:
        shutil.copy(source / "hack" / name, FOLDER / "bin")
        (FOLDER / "bin" / name).chmod(0o755)
    (FOLDER / "bin" / "helm").symlink_to(tool("helm"))
    folder = FOLDER / "git" / "repository"
    run(["git", "init", "--quiet", "--initial-branch=main", folder])
    return Repository(folder=folder, url=f"git://{CONTROL.address}:{GIT_PORT}/repository")


def _configure(cluster: Cluster, source: Path, settings: Mapping[str, str]) -> None:
    cluster.kubectl("create", "namespace", NAMESPACE)
    into = f"--namespace={NAMESPACE}"
    config = source / "manifests" / "base" / "config"
    cluster.kubectl("apply", "--server-side", into, f"--kustomize={config}")
    merge = ("--type=merge", into, "--patch")
    cluster.kubectl("patch", "configmap", "argocd-cm", *merge, json.dumps({"data": dict(settings)}))
    secret = json.dumps({"stringData": {"server.secretkey": "of no use without the API server"}})
    cluster.kubectl("patch", "secret", "argocd-secret", *merge, secret)
    everything = [{"group": "*", "kind": "*"}]
    project = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": everything,
        },
    }
    cluster.kubectl.apply(json.dumps(project))


def _programs(binary: Path, beside: int) -> tuple[Program, ...]:
    environment = {
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_GNUPGHOME": str(FOLDER / "gpg"),
        "ARGOCD_SSH_DATA_PATH": str(FOLDER / "ssh"),
        "ARGOCD_TLS_DATA_PATH": str(FOLDER / "tls"),
        "ARGOCD_RECONCILIATION_JITTER": "0s",
        "KUBECONFIG": str(credentials.kubeconfig("admin")),
        "HOME": str(FOLDER / "home"),
        "TMPDIR": str(FOLDER / "tmp"),
        "PATH": f"{FOLDER / 'bin'}:{PATH}",
    }
    redis = ("redis-server", "--bind", "127.0.0.1", "--port", str(REDIS_PORT))
    git = ("git", "daemon", f"--listen={CONTROL.address}", f"--port={GIT_PORT}", "--reuseaddr")
    commands = {
        REDIS: (*redis, "--save", "", "--appendonly", "no"),
        GIT: (*git, "--export-all", f"--base-path={FOLDER / 'git'}"),
        REPOSITORIES: (
            *(str(binary), "repo-server", "--disable-tls", "--address=127.0.0.1"),
            f"--port={REPOSITORIES_PORT}",
            f"--metrics-address={CONTROL.address}",
            f"--metrics-port={REPOSITORIES_METRICS_PORT}",
            f"--revision-cache-expiration={RESYNC_S}s",
            f"--redis=127.0.0.1:{REDIS_PORT}",
        ),
        CONTROLLER: (
            *(str(binary), "controller", f"--namespace={NAMESPACE}", "--repo-server-plaintext"),
            f"--repo-server=127.0.0.1:{REPOSITORIES_PORT}",
            f"--metrics-port={CONTROLLER_METRICS_PORT}",
            f"--redis=127.0.0.1:{REDIS_PORT}",
            f"--app-resync={RESYNC_S}",
            "--persist-resource-health",  # in each Application's status, where tests look
        ),
    }
    return tuple(
        Program(name=name, command=command, beside=beside, environment=environment)
        for name, command in commands.items()
    )


def _wait_healthy(cluster: Cluster, name: str, port: int) -> None:
    def healthy() -> bool:
        url = f"http://{CONTROL.address}:{port}/healthz"
        with urllib.request.urlopen(url, timeout=5) as page:
            return bool(page.status == 200)

    cluster.children.wait(name, f"{name} is healthy", healthy, timeout_s=READY_S)
