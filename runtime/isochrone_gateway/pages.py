"""What the public listener says of itself and of its models: health, readiness, metadata.

Called by ``inference``. The forms are those of the Open Inference Protocol's REST specification.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, Final, TypeAlias

from isochrone.ids import GroupId, VariantId
from isochrone_gateway.directory import Target, Verb, short_name

EXTENSIONS: Final = ("binary_tensor_data",)

Page: TypeAlias = tuple[int, Any]
"""A status, and what is said, to be encoded as JSON."""


class Pages:
    """Makes the pages. ``loaded`` names the variants that workers of a group hold now."""

    def __init__(
        self,
        *,
        is_ready: Callable[[], bool],
        loaded: Callable[[], Iterable[tuple[VariantId, GroupId]]],
    ) -> None:
        self._is_ready = is_ready
        self._loaded = loaded
        self._version = version("isochrone")

    def fixed(self, wanted: str) -> Page | None:
        """Return the page for ``wanted``, method and path, where that names no model."""
        match wanted:
            case "GET /v2" | "GET /v2/":
                return 200, {
                    "name": "isochrone",
                    "version": self._version,
                    "extensions": EXTENSIONS,
                }
            case "GET /v2/health/live":
                return 200, {"live": True}
            case "GET /v2/health/ready":
                is_ready = self._is_ready()
                return (200 if is_ready else 503), {"ready": is_ready}
            case _:
                return None

    def model(self, target: Target) -> Page:
        """Return the metadata of a model, or whether it is ready."""
        entry, model = target.entry, target.entry.model
        if target.verb is Verb.READY:
            is_ready = self._has_loaded(target)
            return (200 if is_ready else 503), {"name": entry.name, "ready": is_ready}
        if model is None:
            return 503, {"error": f'"{entry.name}" has no route in the plan: see its status'}
        described: dict[str, Any] = {
            "name": entry.name,
            "versions": entry.versions if target.version is None else (target.version,),
            "platform": "isochrone",
        }
        for key, specs in (("inputs", model.inputs), ("outputs", model.outputs)):
            described[key] = [
                {"name": spec.name, "datatype": spec.datatype.value, "shape": spec.shape}
                for spec in specs
            ]
        return 200, described

    def _has_loaded(self, target: Target) -> bool:
        entry, wanted = target.entry, target.version
        architectures = {item.id: item.architecture for item in entry.variants}
        loaded = frozenset(self._loaded())
        return any(
            (variant, group) in loaded
            and wanted in (None, short_name(variant), architectures[variant])
            for variant, group in entry.routes
        )
