"""Who may talk to the cluster: an authority, a few certificates, and a token for each program.

Made afresh for each cluster and removed with it; the private parts are readable by root alone. Called
by ``cluster`` when it starts.
"""

import secrets
from pathlib import Path
from typing import Final

from isochrone_cluster.failures import run
from isochrone_cluster.places import API_SERVER, API_SERVICE, CONTROL, DATA, NODES

FOLDER: Final = DATA / "credentials"
AUTHORITY: Final = FOLDER / "ca.crt"
AUTHORITY_KEY: Final = FOLDER / "ca.key"
ACCOUNTS_KEY: Final = FOLDER / "service-accounts.key"
ACCOUNTS_PUBLIC: Final = FOLDER / "service-accounts.pub"
TOKENS: Final = FOLDER / "tokens.csv"
DAYS: Final = "30"

SUBJECTS: Final = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    **{node.name: (f"system:node:{node.name}", "system:nodes") for node in NODES},
}
"""User and group by the name of the kubeconfig."""


def kubeconfig(subject: str) -> Path:
    """Return the kubeconfig of one of ``SUBJECTS``."""
    return FOLDER / f"{subject}.kubeconfig"


def _key(path: Path) -> None:
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    run(["openssl", "genpkey", *curve, "-out", path])


def _certificate(name: str, *, subject: str, usage: str, names: tuple[str, ...] = ()) -> None:
    """Make ``name``.key, and ``name``.crt signed by the authority."""
    key, request, extensions = (FOLDER / f"{name}.{end}" for end in ("key", "csr", "ext"))
    _key(key)
    run(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
    rows = ["keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}"]
    extensions.write_text(
        "\n".join([*rows, *([f"subjectAltName={','.join(names)}"] if names else [])]),
        encoding="ascii",
    )
    sign = ("openssl", "x509", "-req", "-days", DAYS, "-CAcreateserial")
    authority = ("-CA", str(AUTHORITY), "-CAkey", str(AUTHORITY_KEY))
    out = (FOLDER / f"{name}.crt",)
    run([*sign, *authority, "-in", request, "-extfile", extensions, "-out", *out])


def make() -> None:
    """Make the authority, the API server's two certificates, the tokens and the kubeconfigs."""
    FOLDER.mkdir(parents=True, mode=0o700)
    _key(AUTHORITY_KEY)
    _key(ACCOUNTS_KEY)
    run(["openssl", "pkey", "-in", ACCOUNTS_KEY, "-pubout", "-out", ACCOUNTS_PUBLIC])
    extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    run(
        [
            *("openssl", "req", "-x509", "-days", DAYS, "-subj", "/CN=isochrone-cluster"),
            *("-key", AUTHORITY_KEY, "-out", AUTHORITY),
            *(word for extension in extensions for word in ("-addext", extension)),
        ]
    )
    short = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    names = (*short, "kubernetes.default.svc.cluster.local", "localhost")
    addresses = (CONTROL.address, API_SERVICE, "127.0.0.1")
    alternatives = (*(f"DNS:{n}" for n in names), *(f"IP:{a}" for a in addresses))
    _certificate("api-server", subject="/CN=kube-apiserver", usage="serverAuth", names=alternatives)
    # The API server shows this one to kubelets, which ask it in turn whether its user may.
    masters = "/O=system:masters/CN=kube-apiserver-kubelet-client"
    _certificate("kubelet-client", subject=masters, usage="clientAuth")
    rows: list[str] = []
    for name, (user, group) in SUBJECTS.items():
        token = secrets.token_urlsafe(32)
        rows.append(f"{token},{user},{name}" + (f",{group}" if group else ""))
        write_kubeconfig(kubeconfig(name), user=name, token=token)
    TOKENS.write_text("\n".join(rows) + "\n", encoding="ascii")
    for file in FOLDER.iterdir():
        file.chmod(0o600)


def write_kubeconfig(path: Path, *, user: str, token: str) -> None:
    """Write a kubeconfig with everything inside, readable by its owner alone."""
    authority = run(["base64", "--wrap=0", AUTHORITY]).strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(
        f"""apiVersion: v1
kind: Config
current-context: isochrone
clusters:
- name: isochrone
  cluster:
    server: {API_SERVER}
    certificate-authority-data: {authority}
contexts:
- name: isochrone
  context: {{cluster: isochrone, user: {user}}}
users:
- name: {user}
  user: {{token: {token}}}
""",
        encoding="ascii",
    )
