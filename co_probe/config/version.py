"""The version of this package."""

from importlib import metadata


def package_version() -> str:
    """The version that is installed; `unknown` where the package runs from its source without being installed."""
    try:
        return metadata.version("co-probe")
    except metadata.PackageNotFoundError:
        return "unknown"
