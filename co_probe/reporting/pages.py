"""Templates of HTML pages."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined


def text(name: str) -> str:
    """Read a template file."""
    return (files("co_probe.reporting") / "templates" / name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Make the template environment, with escaping and errors for unknown names."""
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
