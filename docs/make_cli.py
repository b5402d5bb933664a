"""Write `docs/cli.md`, the reference of the command line, from the commands: `python docs/make_cli.py`."""

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from co_probe.cli.main import cli

HEAD = """# Command line

Written by `python docs/make_cli.py` from the texts that `co-probe COMMAND --help` prints; a test checks that it is
current.

Tables print for people; `--json` and `--csv` print them for programs. A user error is one line on standard error and
exit code 2. A run whose loss becomes NaN or infinite, one that `--guard stop` or `early_stop` ends, and an internal
error exit with code 1; Ctrl-C with 130, SIGTERM with 143 and SIGHUP with 129, after cleaning up. `co-probe --debug
COMMAND` shows the traceback and the warnings of libraries. Every command also has the option `-h, --help`.

Damaged runs and runs without a finished epoch are skipped, with a line on standard error, if there are others.
Read-only runs are measured with a warning; `--results DIR` stores their tables elsewhere.
"""


def render() -> str:
    """Return the page."""
    parts = [HEAD, *_section("co-probe", cli, 2)]
    for name, command in _commands(cli, "co-probe"):
        parts += _section(name, command, 2 if name.count(" ") == 1 else 3)
    return "\n".join(parts)


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")


def _section(name: str, command: click.Command, level: int) -> list[str]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = [name, "[OPTIONS]" if len(command.params) > len(arguments) else "", *map(_argument, arguments)]
    if isinstance(command, click.Group):
        usage.append("COMMAND [ARGS]...")
    lines = [f"{'#' * level} {name}", "", "```text", " ".join(filter(None, usage)), "```", ""]
    lines += [_escape(cleandoc(command.help or "")), ""]
    if examples := getattr(command, "examples", ()):
        lines += ["```sh", *examples, "```", ""]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            lines.append(f"- {_flags(parameter)}: {_escape(_help(parameter))}")
    if command.params and len(command.params) > len(arguments):
        lines.append("")
    if command.epilog:
        lines += [_escape(command.epilog), ""]
    return lines


def _argument(argument: click.Argument) -> str:
    if argument.metavar:
        return argument.metavar
    text = (argument.name or "").upper()
    return text if argument.required else f"[{text}]"


def _flags(option: click.Option) -> str:
    """The option as it is typed, with what its value is called."""
    flags = "/".join([*option.opts, *option.secondary_opts]) if option.secondary_opts else ", ".join(option.opts)
    if option.is_flag:
        return f"`{flags}`"
    if isinstance(option.type, click.Choice):
        return f"`{flags} {'|'.join(map(str, option.type.choices))}`"
    kind = {"text": "TEXT", "integer": "N", "integer range": "N", "path": "PATH"}
    return f"`{flags} {option.metavar or kind.get(option.type.name, option.type.name.upper())}`"


def _help(option: click.Option) -> str:
    text = option.help or ""
    if option.show_default and isinstance(option.default, str | int | float | Path) and not option.is_flag:
        text += f" [default: {option.default}]"
    return " ".join(text.split())


def _escape(text: str) -> str:
    """Keep Markdown from reading `*` and `<` of a help text as its own, outside of code."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for letter in "*<":
            parts[i] = parts[i].replace(letter, f"\\{letter}")
    return "`".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(render(), encoding="utf-8")
