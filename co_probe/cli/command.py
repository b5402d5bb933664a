"""Commands with examples and a heading in `co-probe --help`."""

from collections.abc import Sequence
from typing import Any

import click

from co_probe.cli.hints import setting_for

TRAIN = "Train and import"
MEASURE = "Measure and diagnose"
DRAW = "Draw and report"
SHARE = "Share"
OTHER = "Other"
HEADINGS = (TRAIN, MEASURE, DRAW, SHARE, OTHER)
"""Headings of `co-probe --help`, in order."""


class Command(click.Command):
    """A command with examples.

    Args:
        heading: Heading in `co-probe --help`, one of `HEADINGS`.
        examples: Command lines to show below the description.
    """

    def __init__(self, *args: Any, heading: str = OTHER, examples: Sequence[str] = (), **settings: Any):
        super().__init__(*args, **settings)
        self.heading = heading
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments; suggest the setting for an unknown option that is one."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            takes_settings = any("--set" in parameter.opts for parameter in self.params)
            if takes_settings and (setting := setting_for(error.option_name)):
                message = f"No such option '{error.option_name}': say --set {setting}=VALUE."
                raise click.UsageError(message, ctx) from error
            raise

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description and the examples."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class CommandGroup(Command, click.Group):
    """A command with subcommands, such as `co-probe preset`."""


def heading_of(command: click.Command) -> str:
    """Return the heading of a command in `co-probe --help`; `Other` for a plain `click.Command`."""
    return command.heading if isinstance(command, Command) else OTHER
