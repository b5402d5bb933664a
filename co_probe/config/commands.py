"""Registry of the commands of `co-probe`: names and locations of their `click.Command`, as text."""

from co_probe.config.registry import Registry

COMMANDS = Registry(
    "command",
    {
        "bench": "co_probe.cli.bench:bench",
        "demo": "co_probe.cli.demo:demo",
        "diagnose": "co_probe.cli.diagnose:diagnose",
        "eval": "co_probe.cli.eval:evaluate",
        "export": "co_probe.cli.export:export",
        "gap": "co_probe.cli.gap:gap",
        "import": "co_probe.cli.import_:import_",
        "leaderboard": "co_probe.cli.leaderboard:leaderboard",
        "list": "co_probe.cli.list:list_names",
        "pack": "co_probe.cli.pack:pack",
        "plot": "co_probe.cli.plot:plot",
        "preset": "co_probe.cli.preset:preset",
        "probe": "co_probe.cli.probe:probe",
        "report": "co_probe.cli.report:report",
        "run": "co_probe.cli.run:run",
        "show": "co_probe.cli.show:show",
        "strength": "co_probe.cli.strength:strength",
        "sweep": "co_probe.cli.sweep:sweep",
        "watch": "co_probe.cli.watch:watch",
    },
)
