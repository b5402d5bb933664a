"""Commands that show examples, and the heading that `co-probe --help` lists them under."""

from collections.abc import Sequence
from typing import Any

import click

TRAIN = "Train and import"
MEASURE = "Measure and diagnose"
DRAW = "Draw and report"
SHARE = "Share"
OTHER = "Other"
HEADINGS = (TRAIN, MEASURE, DRAW, SHARE, OTHER)
"""Headings of `co-probe --help`, in their order."""


class Command(click.Command):
    """A command with examples.

    Args:
        heading: Heading that `co-probe --help` lists it under, one of `HEADINGS`.
        examples: Command lines, shown below the description.
    """

    def __init__(self, *args: Any, heading: str = OTHER, examples: Sequence[str] = (), **settings: Any):
        super().__init__(*args, **settings)
        self.heading = heading
        self.examples = tuple(examples)

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
    """Heading that `co-probe --help` lists a command under; `Other` for a plain `click.Command`."""
    return command.heading if isinstance(command, Command) else OTHER
