"""The command `co-probe preset`."""

import click

from co_probe.cli.command import OTHER, CommandGroup
from co_probe.config import presets


@click.group(
    cls=CommandGroup,
    heading=OTHER,
    short_help="List presets, or print one.",
    examples=["co-probe preset list"],
)
def preset() -> None:
    """List presets, or print one. A preset is a TOML file of settings."""


@preset.command("list")
def list_presets() -> None:
    """List the presets of co-probe and their purposes."""
    names = presets.names()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {presets.summary(name)}")


@preset.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the preset NAME as TOML. Save and change it to make your own: --preset FILE.toml."""
    click.echo(presets.text(name), nl=False)
