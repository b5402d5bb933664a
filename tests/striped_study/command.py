import click

from co_probe.cli import options
from co_probe.cli.output import print_frame
from striped_study.probe import directions as measure


@click.command()
@options.runs_argument
@options.device
def directions(runs, runs_dir, device):
    """Accuracy on the stripes of each direction."""
    live = options.compatible(options.open_live(runs, runs_dir), options.unfinished)
    print_frame(options.measured(live, lambda some: measure(some, device=device)), "csv")
