"""The version of this package."""

from importlib import metadata


def package_version() -> str:
    """Return the installed version; `unknown` if the package runs from a source tree that is not installed."""
    try:
        return metadata.version("co-probe")
    except metadata.PackageNotFoundError:
        return "unknown"
