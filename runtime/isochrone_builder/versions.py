"""What results depend on beside their inputs: engines' versions, this machine's processor or GPU.

Called by ``workbench`` and ``profile``, for the keys of their records and the provenance of profiles.
Imports no engine.
"""

import importlib.metadata
import platform
from pathlib import Path
from typing import Final

from isochrone.catalog import BackendName
from isochrone.errors import SetupError
from isochrone_executor import gpu

BUILDER_FORMAT: Final = 1
"""Raised when the files that the builder makes, or what its figures mean, change."""
PROFILER_FORMAT: Final = 2
"""Raised when what is measured of a variant, or how, changes: every profile is then made anew."""
_ENGINES: Final = ("torch", "openvino", "nncf", "onnxruntime", "onnx", "onnxscript")
_PACKAGE_OF: Final = {
    BackendName.TORCH: "torch",
    BackendName.TORCH_AOT: "torch",
    BackendName.CUDA_GRAPH: "torch",
    BackendName.ONNXRUNTIME: "onnxruntime",
    BackendName.OPENVINO: "openvino",
}
"""The package behind a backend; the synthetic one needs none."""


def package_versions() -> dict[str, str]:
    """Return the versions of the engines and converters that are installed here."""
    versions = {name: _version(name) for name in _ENGINES}
    return {name: version for name, version in versions.items() if version}


def engine_version(backend: BackendName) -> str:
    """Return the version of the package behind ``backend``; empty where there is none."""
    package = _PACKAGE_OF.get(backend)
    return _version(package) if package else ""


def hardware(backend: BackendName) -> str:
    """Return what ``backend`` runs on here: ``cpu <model>`` or ``gpu <model>``.

    Raises ``SetupError`` when a GPU is needed and none is found.
    """
    if backend is not BackendName.CUDA_GRAPH:
        return f"cpu {cpu_model()}"
    with gpu.opened() as nvml:
        found = gpu.list_gpus(nvml)
    if not found:
        message = f"backend {backend.value} needs a GPU, and this container sees none"
        raise SetupError(message)
    return f"gpu {found[0].name}"


def cpu_model() -> str:
    """Return what this machine's CPU calls itself."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition(":")
        if separator and name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
