"""The health listener: what probes and scrapes from outside the pod may see, and nothing else.

Called by ``connection`` on the third port, where the configuration has one; ``admin`` serves the
same pages beside its own.

- ``GET /metrics``: Prometheus's text format. ``GET /healthz``: this process answers.
- ``GET /readyz``: 200 when it may be sent traffic, or may lead at once; else 503 and what is missing.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

from isochrone_gateway.answers import answer_bytes, answer_json
from isochrone_gateway.exchange import Exchange
from isochrone_gateway.metrics import Gauges, Metrics, exposition
from isochrone_gateway.readiness import Readiness


class Health:
    """What the health listener serves: ``routes``, by method and path."""

    def __init__(self, *, metrics: Metrics, gauges: Gauges, readiness: Readiness) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._readiness = readiness
        self.routes: Final[dict[str, Callable[[Exchange], None]]] = {
            "GET /metrics": self._show_metrics,
            "GET /healthz": self._show_health,
            "GET /readyz": self._show_readiness,
        }

    def on_head(self, exchange: Exchange) -> None:
        """Answer what needs no body, or what has it already."""
        route(exchange, self.routes)

    def on_part(self, exchange: Exchange) -> None:
        """Nothing here asks for parts of bodies."""
        raise AssertionError(exchange.head.target)

    def on_body(self, exchange: Exchange) -> None:
        """Answer, now that the body is there."""
        self.routes[exchange.head.target](exchange)

    def on_broken(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer that the body cannot be read."""
        answer_json(exchange, status, {"error": message})

    def on_crowded(self, exchange: Exchange, message: str) -> None:
        """Answer that there is no room for the body."""
        answer_json(exchange, 503, {"error": message})

    def on_gone(self, exchange: Exchange) -> None:
        """Leave it at that: nothing goes on for a client here."""

    def on_unreadable(self) -> None:
        """Leave uncounted what is no request, and has been answered."""

    def _show_metrics(self, exchange: Exchange) -> None:
        text = exposition(self._metrics, self._gauges)
        answer_bytes(exchange, 200, text, CONTENT_TYPE_LATEST)

    def _show_health(self, exchange: Exchange) -> None:
        answer_json(exchange, 200, {"live": True})

    def _show_readiness(self, exchange: Exchange) -> None:
        missing = self._readiness.missing()
        answer_json(exchange, 503 if missing else 200, {"ready": not missing, "missing": missing})


def route(exchange: Exchange, routes: dict[str, Callable[[Exchange], None]]) -> None:
    """Answer a head by ``routes``, unless its body is still coming, or with what is wrong."""
    problem = exchange.head.problem
    if problem is not None:
        answer_json(exchange, problem[0], {"error": problem[1]})
    elif exchange.head.target not in routes:
        message = f"no such path: {exchange.head.target}; there are {', '.join(routes)}"
        answer_json(exchange, 404, {"error": message})
    elif exchange.complete:
        routes[exchange.head.target](exchange)
