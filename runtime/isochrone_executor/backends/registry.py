"""Opens a backend by name, importing its engine only then.

Called by the executor (one open per process and name) and by the builder's profiler.
"""

import importlib
from importlib.util import find_spec
from typing import Final, cast

from isochrone.catalog import BackendName
from isochrone.errors import SetupError
from isochrone_executor.backends.port import Backend

_PACKAGE: Final = "isochrone_executor.backends"
_MODULES: Final[dict[BackendName, tuple[str, str, str]]] = {
    BackendName.TORCH: (f"{_PACKAGE}.torch_eager", "TorchBackend", "torch"),
    BackendName.OPENVINO: (f"{_PACKAGE}.openvino_runtime", "OpenVinoBackend", "openvino"),
    BackendName.SYNTHETIC: (f"{_PACKAGE}.synthetic", "SyntheticBackend", ""),
}
"""Backend → module, class, and the package that must be installed ("" for none)."""


def available_backends() -> tuple[BackendName, ...]:
    """Return the backends whose engine is installed, in the order of ``BackendName``."""
    return tuple(
        name
        for name in BackendName
        if name in _MODULES and (not _MODULES[name][2] or find_spec(_MODULES[name][2]))
    )


def open_backend(name: BackendName) -> Backend:
    """Return the backend ``name``, ready to load variants.

    Raises ``SetupError`` when no file here implements it, or its engine is not installed.
    """
    entry = _MODULES.get(name)
    if entry is None:
        known = ", ".join(backend.value for backend in _MODULES)
        message = f"backend {name.value!r} is not implemented; this executor runs {known}"
        raise SetupError(message)
    module_name, class_name, engine = entry
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        message = f"backend {name.value!r} needs {engine or module_name}: {error}; install it"
        raise SetupError(message) from error
    return cast("Backend", getattr(module, class_name)())
