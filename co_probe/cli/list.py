"""The command `co-probe list`."""

import inspect
import json
from typing import Any

import click

from co_probe.cli.command import OTHER, Command
from co_probe.config.kinds import in_words
from co_probe.config.optimizers import OPTIMIZERS
from co_probe.config.registry import Registry
from co_probe.data import DATA
from co_probe.errors import unknown
from co_probe.methods import METHODS
from co_probe.models import MODELS
from co_probe.plots import PLOTS
from co_probe.probes import PROBES
from co_probe.training.schedules import SCHEDULES

# Arguments that are not settings of the entry.
OF_THE_RUN = {("method.", "norm"), ("method.", "bounds"), ("optimizer.", "name")}
SECTIONS: dict[str, tuple[str, Registry]] = {  # heading -> (prefix of its settings, registry)
    "methods": ("method.", METHODS),
    "models": ("model.", MODELS),
    "data sets": ("data.", DATA),
    "optimizers": ("optimizer.", OPTIMIZERS),
    "schedules": ("schedule.", SCHEDULES),
    "probes": ("", PROBES),
}


@click.command(
    "list",
    cls=Command,
    heading=OTHER,
    short_help="List methods, models, data sets, probes and figures.",
    examples=["co-probe list", "co-probe list apart"],
)
@click.argument("name", required=False)
def list_names(name: str | None) -> None:
    """List all names (methods, models, data sets, optimizers, ...), or describe NAME and its settings."""
    if name is None:
        for heading, (_, registry) in SECTIONS.items():
            click.echo(f"{heading}: {', '.join(registry)}")
        click.echo(f"figures: {', '.join(PLOTS)}")
        click.echo("What one of them is, and its settings: co-probe list NAME")
        return
    for section, registry in SECTIONS.values():
        for entry in registry:
            if name.partition(":")[0] == entry.partition(":")[0]:
                _describe(section, registry, entry)
                return
    if name not in PLOTS:
        entries = [entry.partition(":")[0] for _, registry in SECTIONS.values() for entry in registry]
        raise unknown("name", name, [*entries, *PLOTS])
    click.echo(f"The figure {name}: {PLOTS.about.get(name, 'see co-probe plot --help')}")


def _describe(section: str, registry: Registry, entry: str) -> None:
    target = registry.target(entry)
    click.echo(f"{entry}: {inspect.getdoc(target)}\n")
    settings = [p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = [p for p in settings if (section, p.name) not in OF_THE_RUN]
    typed = [f"--set {section}{p.name}={_as_toml(p.default)}" for p in settings]
    for parameter, text in zip(settings, typed, strict=True):
        click.echo(f"{text:<{max(map(len, typed))}}  {in_words(parameter.annotation)}")
    if not settings:
        click.echo("It has no settings of its own.")
    if section == "data.":
        click.echo(
            'Every data set: --set "data.title=TEXT" (its name in figures), --set data.limit=N (training images)'
        )


def _as_toml(default: Any) -> str:
    """Format a default for --set; `...` if there is none, or the class computes it."""
    if default is None or default is inspect.Parameter.empty:
        return "..."
    return json.dumps(float(f"{default:.4g}") if isinstance(default, float) else default)
