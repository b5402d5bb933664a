"""What the command line does is a call, which takes paths as well as objects."""

import subprocess
import sys
from importlib import metadata

import co_probe
from co_probe.config.commands import COMMANDS
from co_probe.config.exports import EXPORTS

# Commands without a call of their name: what they are in Python instead.
ELSEWHERE = {"demo", "eval", "import", "list", "plot", "preset", "run", "show", "watch"}


def test_every_name_is_there():
    assert all(callable(getattr(co_probe, name)) for name in set(co_probe.__all__) - {"indicators"})  # a package
    assert set(co_probe.__all__) <= set(dir(co_probe))
    assert set(COMMANDS) - ELSEWHERE <= set(EXPORTS)
    assert set(co_probe.__all__) - {"indicators"} <= set(EXPORTS) <= set(dir(co_probe))
    assert {"train", "evaluate", "import_run", "draw", "open_run"} <= set(co_probe.__all__)


def test_importing_the_package_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, co_probe, co_probe.config.presets; print(*({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_studies_are_looked_for_when_a_registry_is_read_and_not_before():
    code = (
        "import sys, co_probe, co_probe.methods; print('co_probe.studies' in sys.modules)\n"
        "print('shrink' in co_probe.methods.METHODS, 'co_probe.studies' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\nTrue True\n"


def test_export_and_pack_take_paths(runs, tmp_path):
    co_probe.export(str(runs / "fgsm"), None, str(tmp_path / "last.pt"))
    co_probe.export(co_probe.open_run(runs / "fgsm"), 3, tmp_path / "third.pt")
    assert (tmp_path / "last.pt").stat().st_size == (tmp_path / "third.pt").stat().st_size
    co_probe.pack(str(runs / "fgsm"), str(tmp_path / "fgsm.h5"))
    assert co_probe.open_run(tmp_path / "fgsm.h5").epochs == [1, 2, 3]
    frame = co_probe.strength(tmp_path / "fgsm.h5", tmp_path / "last.pt", device="cpu")
    assert set(frame["epoch"]) >= {1, 2, 3}


def test_the_version_is_unknown_where_the_package_is_not_installed(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert co_probe.__version__ == metadata.version("co-probe")
    monkeypatch.setattr(metadata, "version", missing)
    assert co_probe.__version__ == "unknown"
