"""Leaderboards: the numbers of stored evaluations, AutoAttack's last word, and every form of the table."""

import shutil

import pandas as pd
import pytest
from conftest import tiny_config
from synthetic_runs import collapsing, healthy, synthetic_run

import co_probe
from co_probe.benchmarks.passes import passes_of
from co_probe.errors import UserError
from co_probe.store import StoredRun
from co_probe.store.thinning import drop_weights

N = 200


def evaluated(run: StoredRun, **accuracy: float) -> StoredRun:
    """The run with stored accuracies at its best and at its last epoch."""
    for epoch in {run.best_epoch, run.last_epoch}:
        rows = []
        for attack, value in accuracy.items():
            about = {"attack": attack, "epsilon": run.epsilon, "version": "", "quantity": "accuracy"}
            rows.append({**run.labels(epoch, "eval"), **about, "value": value, "low": value, "high": value, "n": N})
        run.add_rows("eval", pd.DataFrame(rows), ["epoch", "attack", "epsilon", "version", "quantity", "n"])
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[StoredRun]:
    """A method with three seeds that collapses in one, one whose collapse only AutoAttack sees, and a healthy one."""
    folder = tmp_path_factory.mktemp("runs")
    made = [
        evaluated(
            synthetic_run(folder / f"fgsm-{seed}", collapsing() if seed == 1 else healthy(), seed=seed),
            clean=0.9 + seed / 100,
            pgd50x10=0.0 if seed == 1 else 0.5,
        )
        for seed in range(3)
    ]
    evaluated(made[0], aa=0.48)
    hidden = synthetic_run(folder / "hidden", healthy(), method="elle")
    made.append(evaluated(hidden, clean=0.8, pgd50x10=0.37, aa=0.03))
    sound = synthetic_run(folder / "sound", healthy(), method="n-fgsm")
    return [*made, evaluated(sound, clean=0.85, pgd50x10=0.55, aa=0.52)]


def test_runs_with_other_settings_or_the_same_seed_have_separate_rows(runs, tmp_path):
    again = evaluated(synthetic_run(tmp_path / "again", healthy(), seed=0), clean=0.7)
    (board,) = co_probe.leaderboard([*runs[:3], again], quick=True).boards
    assert {entry.method: entry.seeds for entry in board.entries} == {
        "FGSM (fgsm-0)": [0, 1, 2],
        "FGSM (again)": [0],
    }


def test_rows_are_means_over_seeds_and_autoattack_decides(runs):
    (board,) = co_probe.leaderboard(runs, quick=True).boards
    rows = {row[0]: dict(zip(board.header, row, strict=True)) for row in board.rows()}
    assert list(rows) == ["N-FGSM", "FGSM", next(name for name in rows if name.lower() == "elle")]  # by AutoAttack
    fgsm, hidden, sound = rows["FGSM"], [*rows.values()][2], rows["N-FGSM"]
    assert fgsm["clean"] == "91.0 ± 1.0"
    assert fgsm["PGD-50×10"] == "33.3 ± 28.9"
    assert (fgsm["seeds"], fgsm["verdict"]) == ("3", "1/3 collapsed")
    assert fgsm["AutoAttack"] == "48.0"  # of the one seed that has it
    assert hidden["verdict"] == "1/1 collapsed"  # although its PGD curve is healthy
    assert sound["verdict"] == "healthy"
    assert hidden["passes"] == hidden["seconds"] == "–"
    assert "ε = 0.1" in board.title and f"{N} test images" in board.caption


def test_one_table_per_epsilon(runs, tmp_path):
    other = tmp_path / "other"
    settings = tiny_config("fgsm", epochs=1, epsilon=0.05)
    list(co_probe.training.loop.epochs(settings, other, device="cpu"))
    boards = co_probe.leaderboard([*runs, other], attacks=["clean"], quick=True).boards
    assert [board.epsilon for board in boards] == [0.1, 0.05]
    assert boards[1].columns == [] and boards[1].rows()[0][0] == "FGSM"  # nothing is stored of it


def test_every_form_has_every_method(runs):
    found = co_probe.leaderboard(runs, quick=True)
    frame = found.frame()
    row = frame[(frame["method"] == "FGSM") & (frame["at"] == "best") & (frame["quantity"] == "pgd50x10")]
    assert row["value"].item() == pytest.approx(1 / 3) and row["n"].item() == 3
    collapsed = frame[frame["quantity"] == "collapsed"].set_index("method")["value"]
    assert collapsed["FGSM"] == pytest.approx(1 / 3) and collapsed["N-FGSM"] == 0
    for text in (found.to_markdown(), found.to_latex(), found.to_html(), found.to_csv(), str(found)):
        assert "N-FGSM" in text and "FGSM" in text
    html = found.to_html()
    assert html.count('class="bar"') == 3 * 3 * 2  # methods, attacks, epochs
    assert "--share: 33.3%" in html and "<script" not in html
    assert "1/3 collapsed" in found.to_latex() and r"$\pm$" in found.to_latex()


def test_missing_results_are_measured_and_stored(trained, tmp_path):
    paths = [shutil.copytree(trained / name, tmp_path / name) for name in ("fgsm", "pgd")]
    board = co_probe.leaderboard(paths, attacks=["clean", "pgd2"], epochs=["last"], images=30, device="cpu").boards[0]
    assert board.sizes == {"clean": {30}, "pgd2": {30}}
    passes = {entry.method: entry.passes for entry in board.entries}
    assert 4.5 < passes["FGSM"] <= 5 and 21 < passes["PGD"] <= 23  # 2 + 3 and 20 + 3, less the first layer's
    assert passes_of(StoredRun(paths[0]), measure=False) == passes["FGSM"]
    again = co_probe.leaderboard(paths, attacks=["clean", "pgd2"], epochs=["last"], quick=True).boards[0]
    assert again.rows() == board.rows()
    wanted = co_probe.evaluate(paths[0], ["clean"], epoch="last", images=30).query("attack == 'clean'")["value"].item()
    assert next(e for e in board.entries if e.method == "FGSM").accuracy["last", "clean"] == [wanted]


def test_the_command(runs, tmp_path, call):
    paths = [run.path for run in runs]
    code, out, err = call("leaderboard", *paths, "--quick", "--html", tmp_path / "board.html")
    assert code == 0, err
    assert "1/3 collapsed" in out and (tmp_path / "board.html").read_text().startswith("<!doctype html>")
    assert call("leaderboard", *paths, "--quick", "--markdown")[1].startswith("synthetic, ε = 0.1")
    assert call("leaderboard", *paths, "--quick", "--csv")[1].startswith("data,model,epsilon,norm,method")
    code, _, err = call("leaderboard", *paths, "--quick", "--epochs", "first")
    assert code == 2 and "epochs must be best, last or both, not 'first'" in err


def test_runs_without_most_of_their_weights_stay_runs(trained, tmp_path):
    """They show and diagnose as before, measure the epochs that are left, and say what is gone."""
    path = shutil.copytree(trained / "fgsm", tmp_path / "fgsm")
    before, size = StoredRun(path).frame("metrics"), (path / "epoch-0001.h5").stat().st_size
    drop_weights(path, {3})
    run = co_probe.open_run(path)
    assert run.epochs == [1, 2, 3] and (path / "epoch-0001.h5").stat().st_size < size / 2
    pd.testing.assert_frame_equal(run.frame("metrics"), before)
    assert run.step_series(1)["loss"].shape == StoredRun(trained / "fgsm").step_series(1)["loss"].shape
    assert run.load_model(3) is not None
    with pytest.raises(UserError, match="fgsm has no weights of epoch 1: they were deleted to save space"):
        run.load_model(1)
    drop_weights(path, {3})  # nothing is left to do
    co_probe.pack(path, tmp_path / "packed.h5")
    assert not StoredRun(tmp_path / "packed.h5").has_weights(1)
