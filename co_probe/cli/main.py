"""`co-probe`: the group of commands, and handling of errors."""

import sys
from contextlib import nullcontext
from typing import Any

import click

from co_probe.cli.command import HEADINGS, heading_of
from co_probe.cli.endings import end_with_error, ending_by_signals, readable_output, warnings_after_success
from co_probe.config import plugins
from co_probe.config.commands import COMMANDS
from co_probe.config.version import package_version
from co_probe.errors import UserError, one_line, unknown


class Commands(click.Group):
    """Registered commands, imported when called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names, sorted."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name; for a broken study, a command that reports the error."""
        if cmd_name not in COMMANDS:
            return None
        try:
            command = COMMANDS.target(cmd_name)
        except Exception as error:  # a broken study must not break co-probe
            return _broken(cmd_name, f"cannot be imported: {one_line(repr(error))}", error)
        return command if isinstance(command, click.Command) else _broken(cmd_name, "is no click.Command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, with a line each."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        for heading in HEADINGS:
            rows = [
                (name, command.get_short_help_str(formatter.width))
                for name, command in commands.items()
                if command is not None and heading_of(command) == heading
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command for the first argument. Raises UserError with the nearest names if it is unknown."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


def _broken(name: str, reason: str, cause: Exception | None = None) -> click.Command:
    text = f"{COMMANDS.entries[name]} {reason}"

    @click.command(name, help=f"({text})", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def broken(arguments: tuple[str, ...]) -> None:
        raise UserError(f"command {name}: {text}") from cause

    return broken


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_version(), prog_name="co-probe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Allow a run or a preset to load this code: package.module:Name, or a whole package.module.",
)
def cli(debug: bool, allow: tuple[str, ...]) -> None:
    """Did an adversarial training run overfit catastrophically, when, and why?

    co-probe trains runs, imports checkpoints of other programs, measures robustness and perturbations at every epoch,
    and draws the figures. Start with `co-probe demo`, or `co-probe import --help` for your own checkpoints.
    """
    plugins.allow(*allow)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 for success, 2 for errors that the user can correct, 1 for others."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    with readable_output():
        try:
            with ending_by_signals(), nullcontext() if debug else warnings_after_success():
                code = cli.main(arguments, prog_name="co-probe", standalone_mode=False) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 0
        except (Exception, KeyboardInterrupt) as error:
            if debug and not isinstance(error, click.ClickException | click.Abort | KeyboardInterrupt):
                raise
            code = end_with_error(error)
        sys.exit(code)
