"""Registration of studies at the first access to any registry, not when co-probe is imported."""

from importlib import import_module
from threading import RLock

STUDIES = "co_probe.studies"  # as text: config must not import studies
_lock, _asked = RLock(), False


def discover() -> None:
    """Register all studies, including those of installed distributions; a second call does nothing."""
    global _asked
    with _lock:
        if not _asked:
            _asked = True  # set first, since registration may access the registries
            import_module(STUDIES).register()
