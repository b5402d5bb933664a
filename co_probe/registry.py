"""Names of things that are loaded when they are first asked for."""

from importlib import import_module
from typing import Any

from co_probe.errors import UserError, unknown
from co_probe.kinds import check_kinds


class Registry:
    """A table from short names to `package.module:Name`, imported on first use.

    Keeping the targets as text is what lets `co-probe --help` list every method without importing torch.
    """

    def __init__(self, kind: str, entries: dict[str, str]):
        self.kind = kind
        self.entries = dict(sorted(entries.items()))

    def __iter__(self):
        return iter(self.entries)

    def check(self, name: str) -> str:
        """Return `name`; raise UserError, with the nearest names, if there is no such entry."""
        if name not in self.entries:
            raise unknown(self.kind, name, self.entries)
        return name

    def load(self, name: str) -> Any:
        """Import and return the entry. Raises UserError for an unknown name."""
        module, _, attribute = self.entries[self.check(name)].partition(":")
        return getattr(import_module(module), attribute)

    def make(self, name: str, /, *args: Any, **settings: Any) -> Any:
        """Call the entry with `settings`. Raises UserError for a setting that it does not have."""
        from inspect import signature

        target = self.load(name)
        known = [p.name for p in signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for key in settings:
            if key not in known:
                raise unknown(f"setting of {self.kind} {name}", key, known or ["(it has no settings)"])
        check_kinds(f"{self.kind} {name}", target, settings)
        try:
            return target(*args, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.kind} {name}: {error}") from error
