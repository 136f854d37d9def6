"""The pure core of Isochrone: values and decisions, no I/O, no clock, no logging.

Everything here is a function of its arguments. The operator, the gateway, the executor, the
builder and the command line import it and perform what it decides; it imports none of them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("isochrone")
except PackageNotFoundError:  # a source tree on PYTHONPATH, never installed
    __version__ = "0+source"

__all__ = ["__version__"]
