"""co-probe preset"""

import click

from co_probe.config import presets


@click.group()
def preset() -> None:
    """Known settings: list them, print one."""


@preset.command("list")
def list_presets() -> None:
    """The presets that come with co-probe, and what each is for."""
    names = presets.names()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {presets.summary(name)}")


@preset.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the preset NAME as TOML; saved to a file and changed, it serves as one of yours: --preset FILE.toml."""
    click.echo(presets.text(name), nl=False)
