"""No command without words on what it does, in the program and in the README."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from co_probe.cli.command import HEADINGS, heading_of
from co_probe.cli.main import cli, main
from co_probe.config.commands import COMMANDS as REGISTRY
from co_probe.data import DATA
from co_probe.methods import METHODS
from co_probe.models import MODELS
from co_probe.plots import PLOTS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in ((name, group.get_command(None, name)) for name in group.list_commands(None)):
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_a_help_text(name):
    command = COMMANDS[name]
    assert command.help
    assert not [option.name for option in command.params if isinstance(option, click.Option) and not option.help]


@pytest.mark.parametrize("name", [name for name in COMMANDS if " " not in name])
def test_every_command_has_examples_and_a_group(name, capsys):
    command = COMMANDS[name]
    assert command.examples[0].startswith(f"co-probe {name}") and heading_of(command) in HEADINGS
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.index("Examples:") < shown.index(command.examples[-1]) < shown.index("--help")


def test_a_plain_command_is_listed_among_the_others(registries, capsys):
    REGISTRY.register("plain", "test_cli_help:plain")
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert shown.index("\nOther:") < shown.index("  plain") < shown.index("Print nothing.")


@click.command()
def plain() -> None:
    """Print nothing."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert f"co-probe {name}" in README


def test_everything_that_can_be_named_is_listed_with_its_settings(capsys):
    for name in [*METHODS, *MODELS, *DATA, *PLOTS]:
        with pytest.raises(SystemExit) as end:
            main(["list", name])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith((name, "The figure"))
    with pytest.raises(SystemExit):
        main(["list", "pgd"])
    assert "--set method.steps=10" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*METHODS, *MODELS, *DATA, *PLOTS])


def test_a_name_that_is_not_there_is_met_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["list", "prgd"])
    assert end.value.code == 2 and "did you mean pgd" in capsys.readouterr().err
