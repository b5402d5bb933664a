"""Registries of names that are imported on first use."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from co_probe.config import plugins
from co_probe.config.discovery import discover
from co_probe.config.kinds import check_kinds
from co_probe.config.labels import set_label
from co_probe.errors import UserError, unknown


class Registry:
    """A mapping from short names to `package.module:Name`, imported on first use.

    An entry such as `folder:PATH` takes the text after the colon as its first argument. Any other name with a colon is
    user code, `package.module:Name`, subject to `co_probe.config.plugins`. Targets are text, so that `co-probe --help`
    lists every method without importing torch.

    Studies register their entries when a registry is first read.

    Args:
        kind: Kind of the entries for error messages: `method`, `data set`.
        entries: Initial {name: target}; `register` adds entries with labels.
        about: {name: description for help texts}, optional per entry.
    """

    def __init__(self, kind: str, entries: Mapping[str, str] | None = None, about: Mapping[str, str] | None = None):
        self.kind = kind
        self._entries: dict[str, str] = {}
        self._prefixes: dict[str, str] = {}
        self._about: dict[str, str] = {}
        for name, target in (entries or {}).items():
            self.register(name, target, about=(about or {}).get(name, ""))

    @property
    def entries(self) -> dict[str, str]:
        """{name: target} of all entries."""
        discover()
        return self._entries

    @property
    def about(self) -> dict[str, str]:
        """{name: description} of entries with a description, sorted by name."""
        return {name: self._about[name] for name in self if name in self._about}

    def register(self, name: str, target: str, *, label: str | None = None, about: str = "") -> None:
        """Add an entry; the same entry may be registered again.

        Args:
            name: Name that users type, `fgsm` or `folder:PATH`.
            target: Location of the object, `package.module:Name`, which is imported on first use.
            label: Label in tables and figures; the name if None.
            about: Short description for help texts.

        Raises:
            ValueError: If the name has another target already, or the target has another form.

        Example:
            >>> METHODS.register("half-fgsm", "my_methods:HalfFGSM", label="FGSM/2")
        """
        if not plugins.is_own(target):
            raise ValueError(f"{self.kind} {name}: the target must be package.module:Name, not {target!r}")
        if self._entries.get(name, target) != target:
            raise ValueError(f"{self.kind} {name} is registered already, as {self._entries[name]}")
        self._entries[name] = target
        if about:
            self._about[name] = about
        if ":" in name:
            self._prefixes[name.partition(":")[0]] = name
        set_label(self.kind, name, label or name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(sorted(self.entries))

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def check(self, name: str) -> str:
        """Return `name`; raise UserError with the nearest names if it is unknown."""
        self._split(name)
        return name

    def is_own(self, name: str) -> bool:
        """Return whether `name` is user code, `package.module:Name`. Raises UserError for an unknown name."""
        return self._split(name)[0] is None

    def load(self, name: str) -> Any:
        """Import and return an entry. Raises UserError for an unknown or forbidden name."""
        entry, argument = self._split(name)
        if entry is None:
            return plugins.load(self.kind, name)
        return self.target(entry) if argument is None else partial(self.target(entry), argument)

    def target(self, entry: str) -> Any:
        """Import and return the target of an entry, without its argument."""
        module, _, attribute = self.entries[entry].partition(":")
        return getattr(import_module(module), attribute)

    def make(self, name: str, /, *args: Any, **settings: Any) -> Any:
        """Call an entry with `settings`. Raises UserError for an unknown setting."""
        target = self.load(name)
        self.check_settings(name, len(args), settings)
        try:
            return target(*args, **settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.kind} {name}: {error}") from error

    def check_settings(self, name: str, given: int, settings: Mapping[str, Any]) -> None:
        """Raise UserError if an entry, called with `given` positional arguments, does not accept `settings`."""
        target = self.load(name)
        known = _settings(target, given, own=self._split(name)[0] is None)
        for key in settings:
            if known is not None and key not in known:
                raise unknown(f"setting of {self.kind} {name}", key, known or ["(it has no settings)"])
        check_kinds(f"{self.kind} {name}", target, settings)

    def _split(self, name: str) -> tuple[str | None, str | None]:
        """Split a name into its entry and argument; (None, None) for user code."""
        discover()
        head, colon, argument = name.partition(":")
        if head in self._prefixes:
            if not argument:
                entry = self._prefixes[head]
                raise UserError(f"{self.kind} {head} needs its {entry.partition(':')[2]}: write {entry}")
            return self._prefixes[head], argument
        if name in self.entries:
            return name, None
        if colon and head in self.entries:
            raise UserError(f"{self.kind} {head} takes nothing behind a colon")
        if plugins.is_own(name):
            return None, None
        raise unknown(self.kind, name, self)


def _settings(target: Callable[..., Any], given: int, own: bool) -> list[str] | None:
    """Return the settings that `target` accepts besides `given` positional arguments; None if it accepts any.

    Settings of co-probe's entries are keyword-only; those of user code may be positional too.
    """
    parameters = list(signature(target).parameters.values())
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        return None
    names = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    if own:
        names += [p.name for p in parameters[given:] if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    return names
