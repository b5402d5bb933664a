"""`co-probe`: the group of commands, and how errors look."""

import sys
from contextlib import nullcontext
from typing import Any

import click

from co_probe.cli.bench import bench
from co_probe.cli.demo import demo
from co_probe.cli.diagnose import diagnose
from co_probe.cli.endings import end_with_error, ending_by_signals, readable_output, warnings_after_success
from co_probe.cli.eval import evaluate
from co_probe.cli.export import export
from co_probe.cli.gap import gap
from co_probe.cli.import_ import import_
from co_probe.cli.list import list_names
from co_probe.cli.memorisation import memorisation
from co_probe.cli.pack import pack
from co_probe.cli.plot import plot
from co_probe.cli.preset import preset
from co_probe.cli.probe import probe
from co_probe.cli.run import run
from co_probe.cli.show import show
from co_probe.cli.strength import strength
from co_probe.cli.sweep import sweep
from co_probe.config import plugins


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="co-probe", prog_name="co-probe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="Trust code of its own that a run or a preset names: package.module:Name, or a whole package.module.",
)
def cli(debug: bool, allow: tuple[str, ...]) -> None:
    """Did an adversarial training run catastrophically overfit, when, and why?

    Train runs, measure their perturbations at every epoch, draw what happened. Start with `co-probe demo`.
    """
    plugins.allow(*allow)


for command in (
    bench,
    demo,
    diagnose,
    evaluate,
    export,
    gap,
    import_,
    list_names,
    memorisation,
    pack,
    plot,
    preset,
    probe,
    run,
    show,
    strength,
    sweep,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 if all went well, 2 for what the user can mend, 1 for other failures."""
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
