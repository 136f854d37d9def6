"""``isochrone version``: what is installed, for a bug report."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from isochrone import __version__
from isochrone.scheduling import scheduler
from isochrone_cli.console import output

PACKAGES: Final = (
    *("torch", "openvino", "nncf", "onnx", "onnxruntime", "onnxscript", "nvidia-ml-py"),
    *("ortools", "msgspec", "uvloop"),
)


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Take no options."""


def run(_options: argparse.Namespace) -> int:
    """Print the versions."""
    console = output()
    console.print(f"isochrone {__version__} (hot path {hot_path()})")
    console.print(f"python {platform.python_version()}")
    for package in PACKAGES:
        console.print(f"{package} {_installed(package)}")
    return 0


def hot_path() -> str:
    """Return whether scheduler and gateway are compiled, or run from their sources."""
    return "interpreted" if str(scheduler.__file__).endswith(".py") else "compiled"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
