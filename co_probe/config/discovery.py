"""When studies enter the registries: at the first look into any of them, not when co-probe is imported."""

from importlib import import_module
from threading import RLock

STUDIES = "co_probe.studies"  # as text: this room stands below that one
_lock, _asked = RLock(), False


def discover() -> None:
    """Let all studies register what they add, those of installed distributions too; a second call does nothing."""
    global _asked
    with _lock:
        if not _asked:
            _asked = True  # before it is done: what registers may look into the registries
            import_module(STUDIES).register()
