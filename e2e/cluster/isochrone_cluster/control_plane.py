"""The control plane's programs and their arguments; ``cluster`` starts them, beside node 1.

Pure: ``programs`` returns values. Times after which a silent node counts as lost are shorter than
Kubernetes' own, so that tests of lost nodes take seconds: 20 s to NotReady, 30 s until its pods go.
"""

from pathlib import Path
from typing import Final

from isochrone_cluster import credentials
from isochrone_cluster.places import CONTROL, DATA, LOGS, POD_RANGE, SERVICE_RANGE
from isochrone_cluster.processes import Program

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLERS: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
DNS: Final = "coredns"

AUDIT_POLICY: Final = DATA / "audit-policy.yaml"
COREFILE: Final = DATA / "Corefile"
AUDIT_LOG: Final = LOGS / "audit.log"
"""One JSON line for each write request, with who made it: what tests count."""

_AUDIT_RULES: Final = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  users: [system:apiserver, system:kube-controller-manager, system:kube-scheduler]
- level: None
  userGroups: [system:nodes]
- level: Metadata
"""
_RATES: Final = ("--kube-api-qps=300", "--kube-api-burst=600")
"""Ten times the defaults: what a test of a thousand objects measures shall be our operator."""

_COREFILE: Final = """.:53 {{
    errors
    ready {address}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""


def write_files() -> None:
    """Write the configuration files that the programs' arguments name."""
    AUDIT_POLICY.write_text(_AUDIT_RULES, encoding="ascii")
    admin = credentials.kubeconfig("admin")
    text = _COREFILE.format(address=CONTROL.address, kubeconfig=admin)
    COREFILE.write_text(text, encoding="ascii")


def programs(binary: Path, *, beside: int) -> dict[str, Program]:
    """Return the programs by name, in the order to start them; ``beside`` holds node 1's place."""
    folder = credentials.FOLDER

    def program(name: str, *arguments: str) -> Program:
        return Program(name=name, command=(str(binary), name, *arguments), beside=beside)

    def kubeconfigs(subject: str) -> tuple[str, ...]:
        path = credentials.kubeconfig(subject)
        flags = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
        return tuple(f"--{flag}={path}" for flag in flags)

    listed = (
        program(
            ETCD,
            f"--data-dir={DATA / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            # It survives the end of etcd, not of the machine, which is all that tests ask for.
            "--unsafe-no-fsync",
        ),
        program(
            API_SERVER,
            "--etcd-servers=http://127.0.0.1:2379",
            f"--bind-address={CONTROL.address}",
            f"--advertise-address={CONTROL.address}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--token-auth-file={credentials.TOKENS}",
            f"--client-ca-file={credentials.AUTHORITY}",
            f"--tls-cert-file={folder / 'api-server.crt'}",
            f"--tls-private-key-file={folder / 'api-server.key'}",
            f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
            f"--kubelet-client-key={folder / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={credentials.ACCOUNTS_PUBLIC}",
            f"--service-account-signing-key-file={credentials.ACCOUNTS_KEY}",
            "--default-not-ready-toleration-seconds=30",
            "--default-unreachable-toleration-seconds=30",
            f"--audit-policy-file={AUDIT_POLICY}",
            f"--audit-log-path={AUDIT_LOG}",
            "--audit-log-maxsize=200",
            "--audit-log-maxbackup=1",
        ),
        program(
            CONTROLLERS,
            *kubeconfigs("controller-manager"),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--root-ca-file={credentials.AUTHORITY}",
            f"--service-account-private-key-file={credentials.ACCOUNTS_KEY}",
            f"--cluster-signing-cert-file={credentials.AUTHORITY}",
            f"--cluster-signing-key-file={credentials.AUTHORITY_KEY}",
            f"--cluster-cidr={POD_RANGE}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            *_RATES,
            "--node-monitor-period=2s",
            "--node-monitor-grace-period=20s",
        ),
        program(
            SCHEDULER,
            *kubeconfigs("scheduler"),
            *_RATES,
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ),
        program(DNS, "-conf", str(COREFILE)),
    )
    return {item.name: item for item in listed}
