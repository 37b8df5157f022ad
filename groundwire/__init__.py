"""Groundwire: model decisions grounded in a knowledge graph, hardened against attack, and calibrated."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("groundwire")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
