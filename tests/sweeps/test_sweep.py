import json
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import TINY
from process_tasks import Here

import co_probe
from co_probe.cli.main import cli
from co_probe.config.presets import configure
from co_probe.errors import CoProbeError, DamagedFile, UserError
from co_probe.files import lock as locks
from co_probe.store import StoredRun, find_runs
from co_probe.sweeps import sweep as sweeping
from co_probe.sweeps.cell import run_cell, write_returned
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.processes import Processes
from co_probe.sweeps.sweep import SweepFailed, is_complete
from co_probe.training import loop

SMALL = {**TINY, "epochs": 1}


class AnotherDisk(Here):
    """An executor whose workers do not see the folders of who asks."""

    def submit(self, function, /, *arguments) -> Future:
        if function is run_cell:
            *rest, marker = arguments
            arguments = (*rest, f"{marker}, on another disk")
        return super().submit(function, *arguments)


@pytest.fixture
def here(monkeypatch):
    """Processes of this machine are this process."""
    monkeypatch.setattr(Processes, "submit", Here.submit)


def test_a_grid_names_its_cells(tmp_path):
    grid = Grid(methods=("fgsm", "pgd"), epsilons=("8/255", 0.13), seeds=(0, 3), settings={"model": {"width": 8}})
    cells = grid.cells(tmp_path)
    assert [path.name for path in cells] == [
        f"{method}-eps{epsilon}-seed{seed}"
        for method in ("fgsm", "pgd")
        for epsilon in ("8of255", "0.13")
        for seed in (0, 3)
    ]
    config = cells[tmp_path / "pgd-eps8of255-seed3"]
    assert (config.method.name, config.epsilon, config.seed) == ("pgd", 8 / 255, 3)
    assert config.model.settings["width"] == 8 and config.model.settings["blocks"] == [1, 1, 1]
    assert [c.epsilon for c in Grid(methods=("fgsm",)).cells(tmp_path).values()] == [0.15]  # the preset's


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"methods": ("fgsm", "fgsm")}, "twice"),
        ({"methods": ("fgsm",), "epsilons": ("8/255", "16/510")}, "twice"),
        ({"methods": ()}, "at least one method"),
        ({"methods": ("fgms",)}, "did you mean fgsm"),
        ({"methods": ("fgsm",), "epsilons": ("8",)}, "8/255"),
        ({"methods": ("fgsm",), "preset": "nothing"}, "unknown preset"),
    ],
)
def test_a_grid_that_cannot_be_used_is_refused_before_anything_is_trained(grid, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Grid(**grid).cells(tmp_path)


def test_a_toml_file_and_options_over_it(tmp_path):
    file = tmp_path / "first.toml"
    file.write_text('methods = ["fgsm"]\nepsilons = ["4/255", 0.1]\nseeds = [1]\n[settings]\nmodel.width = 8\n')
    assert Grid.from_toml(file) == Grid(
        methods=("fgsm",), epsilons=(4 / 255, 0.1), seeds=(1,), settings={"model": {"width": 8}}
    )
    arguments = ["sweep", str(file), "--seeds", "5,6", "--set", "epochs=2", "--set", "model.width=9", "--dry-run"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.output.splitlines() == [
        f"sweeps/first/fgsm-eps{epsilon}-seed{seed}: 2 epochs" for epsilon in ("4of255", "0.1") for seed in (5, 6)
    ]
    for text, message in (
        ("method = 1", "did you mean methods"),
        ("methods = 'fgsm'", "must be a list"),
        ("methods = ['fgsm']\nsettings = 3", "settings is a section"),
        ("methods = ['fgsm']\ninjects = 3", "injects must be a list"),
        ("[", "file"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            Grid.from_toml(file)


def test_a_sweep_trains_when_it_is_called_and_returns_the_runs(tmp_path):
    seen = []
    grid = Grid(methods=("fgsm", "standard"), settings=SMALL)
    runs = co_probe.sweep(grid, tmp_path, executor=Here(), device="cpu", progress=lambda *done: seen.append(done))
    assert [run.path for run in runs] == list(grid.cells(tmp_path)) and all(run.epochs == [1] for run in runs)
    assert seen[-1] == (2, 2)
    assert [run.path for run in co_probe.sweep(grid, tmp_path, executor=None)] == [run.path for run in runs]


def test_the_folder_holds_for_a_mapping_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = {"first": configure("digits", "fgsm", SMALL), "second": configure("digits", "standard", SMALL)}
    runs = co_probe.sweep(cells, tmp_path / "runs", executor=Here(), device="cpu")
    assert [run.path for run in runs] == [tmp_path / "runs" / "first", tmp_path / "runs" / "second"]
    (run,) = co_probe.sweep({"third": cells["first"]}, executor=Here(), device="cpu")
    assert run.path.resolve() == tmp_path / "third"


def test_an_executor_of_the_standard_library_serves(tmp_path):
    grid = Grid(methods=("fgsm",), settings=SMALL)
    with ThreadPoolExecutor(1) as executor:
        (run,) = co_probe.sweep(grid, tmp_path, executor=executor, device="cpu")
        assert executor.submit(int, "3").result() == 3, "it is not shut down"
    assert run.epochs == [1]


def test_runs_are_returned_from_another_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    grid = Grid(methods=("fgsm",), settings=SMALL)
    (run,) = co_probe.sweep(grid, tmp_path / "sweep", executor=AnotherDisk(), device="cpu")
    (usual,) = co_probe.sweep(grid, tmp_path / "usual", executor=Here(), device="cpu")
    assert sorted(file.name for file in run.path.iterdir()) == sorted(file.name for file in usual.path.iterdir())
    assert run.metric("pgd10") == usual.metric("pgd10") and is_complete(run.path, run.config)
    assert [*(tmp_path / "scratch").iterdir()] == [] and [*(tmp_path / "sweep").iterdir()] == [run.path]


def test_a_second_attempt_resumes_on_that_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config, seen, out = configure("digits", "fgsm", SMALL, {"epochs": 2}), [], str(tmp_path / "run")

    def stops(*arguments, **options):
        for metrics in epochs(*arguments, **options):
            seen.append(metrics.epoch)
            yield metrics
            if len(seen) == 1:
                raise MemoryError

    epochs = loop.epochs
    monkeypatch.setattr(loop, "epochs", stops)
    with pytest.raises(MemoryError):
        run_cell(config.to_dict(), out, "cpu", marker=str(tmp_path / "not here"))
    (scratch,) = tmp_path.glob("co-probe-*")
    assert StoredRun(scratch).epochs == [1]
    files = run_cell(config.to_dict(), out, "cpu", marker=str(tmp_path / "not here"))
    assert seen == [1, 2]
    write_returned(files, tmp_path / "run")
    assert StoredRun(tmp_path / "run").epochs == [1, 2]
    with pytest.raises(UserError, match="delete it"):
        write_returned(files, tmp_path / "run")


def test_a_run_waits_until_the_lock_of_a_machine_that_died_is_stale(tmp_path, monkeypatch):
    config, lock = configure("digits", "fgsm", SMALL), tmp_path / "run.lock"
    lock.write_text(json.dumps({"pid": 7, "host": "elsewhere", "beats": True}))
    monkeypatch.setattr(locks, "STALE", 0.3)
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        next(loop.epochs(config, tmp_path, device="cpu"))
    run_cell(config.to_dict(), str(tmp_path), "cpu")
    assert StoredRun(tmp_path).epochs == [1]


def test_probes_measure_many_runs_with_an_executor(runs, tmp_path):
    several, seen = [runs / name for name in ("apart", "fgsm", "pgd")], []
    beside, opened = ([co_probe.open_run(path, results=tmp_path / name) for path in several] for name in ("a", "b"))
    here = co_probe.gap(beside, against="pgd2", device="cpu")
    frame = co_probe.gap(
        opened, against="pgd2", device="cpu", executor=Here(), progress=lambda *done: seen.append(done)
    )
    pd.testing.assert_frame_equal(frame, here)
    assert sorted(name for name, *_ in seen) == ["apart", "fgsm", "pgd"] and seen[-1][1:] == (3, 3)
    # Nothing is left to do, so nothing is submitted.
    pd.testing.assert_frame_equal(co_probe.gap(opened, against="pgd2", executor=None), here)
    assert len(co_probe.evaluate(opened, ["clean"], images=20, device="cpu", executor=Here())) == 6


def test_a_run_that_cannot_be_measured_does_not_stop_the_others(runs):
    file = runs / "fgsm" / "epoch-0002.h5"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DamagedFile, match="fgsm"):
        co_probe.gap([runs / "fgsm", runs / "pgd"], against="pgd2", device="cpu", executor=Here())
    assert len(co_probe.open_run(runs / "pgd").frame("gap", against="pgd2")) == 6


def test_a_failing_cell_is_reported_at_the_end_and_the_rest_is_done(tmp_path):
    # Only FGSM has no setting `steps`: its cell fails when it is built.
    grid = Grid(methods=("fgsm", "pgd"), settings={**SMALL, "method": {"steps": 2}})
    with pytest.raises(SweepFailed, match=r"1 of 2 runs failed.*fgsm-eps0\.14-seed0: .*steps") as failed:
        co_probe.sweep(grid, tmp_path, executor=Here(), device="cpu")
    assert list(failed.value.failures) == [tmp_path / "fgsm-eps0.14-seed0"] and "\n" not in str(failed.value)
    assert StoredRun(tmp_path / "pgd-eps0.14-seed0").epochs == [1]


def test_the_command_fails_with_a_failed_run_and_resumes_it_when_called_again(here, tmp_path, monkeypatch):
    sets = ["epochs=1", "batch_size=256", "model.width=8", "data.size=8", "probe.test=40", "probe.train=30"]
    arguments = ["sweep", "--methods", "fgsm,pgd", "--seeds", "0", "--out", str(tmp_path / "s"), "--jobs", "1"]
    arguments += [part for text in sets for part in ("--set", text)]
    trained, real = [], sweeping.run_cell

    def fails_at_pgd(settings, out, *rest):
        if settings["method"]["name"] == "pgd":
            raise CoProbeError("no such luck")
        trained.append(out)
        return real(settings, out, *rest)

    monkeypatch.setattr(sweeping, "run_cell", fails_at_pgd)
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert (
        "pgd-eps0.15-seed0: FAILED: no such luck" in result.output
        and "fgsm-eps0.15-seed0: done, undecided" in result.output
    )
    assert len(trained) == 1

    monkeypatch.setattr(
        sweeping, "run_cell", lambda settings, out, *rest: trained.append(out) or real(settings, out, *rest)
    )
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0 and "2 of 2 runs are complete" in result.output
    assert [path.rsplit("/")[-1] for path in trained] == ["fgsm-eps0.15-seed0", "pgd-eps0.15-seed0"]
    assert [path.name for path in find_runs(tmp_path / "s")] == ["fgsm-eps0.15-seed0", "pgd-eps0.15-seed0"]


def test_complete_means_these_settings_and_all_epochs(trained):
    config = StoredRun(trained / "fgsm").config
    assert is_complete(trained / "fgsm", config)
    assert not is_complete(trained / "fgsm", StoredRun(trained / "pgd").config)
    assert not is_complete(trained / "nothing", config)
