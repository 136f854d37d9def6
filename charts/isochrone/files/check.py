"""Run by `helm test`: the operator answers that it is ready, and its kinds are served.

Given the address of the operator's readiness. Exits with 1 and the reason when either is not so
within a minute.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
KINDS = (
    "acceleratorpools",
    "costbudgets",
    "inferenceservices",
    "models",
    "modelvariants",
    "servingplans",
)
PATIENCE_S = 60.0
PAUSE_S = 2.0


def missing_kinds() -> list[str]:
    """Return what the API server does not serve of our kinds and their status."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text(encoding="ascii")
    request = urllib.request.Request(
        f"https://{host}:{port}/apis/isochrone.dev/v1alpha1",
        headers={"Authorization": f"Bearer {token}"},
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
        served = {resource["name"] for resource in json.load(answer)["resources"]}
    return [n for kind in KINDS for n in (kind, f"{kind}/status") if n not in served]


def problem(readiness: str) -> str:
    """Return what is wrong; nothing when all is well."""
    try:
        missing = missing_kinds()
    except (OSError, ValueError, KeyError) as error:
        return f"the API server does not say what it serves of isochrone.dev/v1alpha1: {error}"
    if missing:
        return f"not served: {', '.join(missing)}; install or upgrade the chart isochrone-crds"
    try:
        with urllib.request.urlopen(readiness, timeout=10):
            return ""
    except (OSError, urllib.error.HTTPError) as error:
        return f"the operator is not ready: {readiness}: {error}"


def main() -> int:
    """Ask until all is well, or patience ends."""
    until = time.monotonic() + PATIENCE_S
    while found := problem(sys.argv[1]):
        if time.monotonic() > until:
            sys.stderr.write(f"{found}\n")
            return 1
        time.sleep(PAUSE_S)
    sys.stdout.write("the operator is ready, and all kinds are served\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
