"""What the operator says of itself: its metrics.

Called by ``crowd`` and by `bench/cluster_operator.py`.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, cast

from isochrone_e2e.install import SYSTEM, Product
from isochrone_e2e.probes import metrics_of
from isochrone_operator.names import OPERATOR_METRICS_PORT

_SAMPLE: Final = re.compile(r"^([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)$")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFigures:
    """Figures of all replicas together: writes by kind and verb; memory of the largest."""

    writes: dict[str, int]
    requests: int
    memory_bytes: int

    def writes_since(self, earlier: "OperatorFigures") -> dict[str, int]:
        """Return the writes after ``earlier``, by kind and verb, most first."""
        since = {key: count - earlier.writes.get(key, 0) for key, count in self.writes.items()}
        return dict(sorted(((k, n) for k, n in since.items() if n), key=lambda it: -it[1]))


def operator_figures(product: Product) -> OperatorFigures:
    """Return what the operator's pods show on their metrics' port now."""
    chosen = "--selector=app.kubernetes.io/component=operator"
    listed = product.kubectl.get("pods", "--namespace", SYSTEM, chosen)
    writes: dict[str, int] = {}
    requests = memory = 0
    for pod in cast("list[dict[str, Any]]", listed["items"]):
        if pod["status"].get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
            continue
        name = pod["metadata"]["name"]
        shown = metrics_of(product.kubectl, SYSTEM, name, "operator", OPERATOR_METRICS_PORT)
        for line in shown.splitlines():
            sample = _SAMPLE.match(line)
            if sample is None:
                continue
            value = int(float(sample[3]))
            if sample[1] == "isochrone_writes_total":
                labels = dict(_LABEL.findall(sample[2] or ""))
                key = f"{labels['verb']} {labels['kind']}"
                writes[key] = writes.get(key, 0) + value
            elif sample[1] == "rest_client_requests_total":
                requests += value
            elif sample[1] == "process_resident_memory_bytes":
                memory = max(memory, value)
    return OperatorFigures(writes=writes, requests=requests, memory_bytes=memory)
