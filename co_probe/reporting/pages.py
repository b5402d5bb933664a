"""Templates of HTML pages."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined


def text(name: str) -> str:
    """Return the file `name` of the folder of templates."""
    return (files("co_probe.reporting") / "templates" / name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Return what renders a template: every text is escaped, and an unknown name is an error."""
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
