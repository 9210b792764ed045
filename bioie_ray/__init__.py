"""Biomedical information extraction with language models, run as a distributed job system on Kubernetes."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bioie-ray")
except PackageNotFoundError:  # a checkout on PYTHONPATH that was never installed
    __version__ = "0+uninstalled"
