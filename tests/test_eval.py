import json
import sys

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import co_probe
from co_probe.attacks import CW, FGSM, PGD, AutoAttack, Clean, Gaussian
from co_probe.attacks.base import cross_entropy, gradient_and_logits
from co_probe.attacks.margin import margin
from co_probe.attacks.named import named_attack
from co_probe.attacks.pgd import BATCH_SIZES
from co_probe.cli.main import cli
from co_probe.config.labels import attack_label, epsilon_label
from co_probe.data.dataset import to_unit
from co_probe.errors import UserError
from co_probe.probes import evaluation
from co_probe.probes.table import pick_epoch
from co_probe.store.stored_run import StoredRun


def classifier(classes: int = 10) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small smooth network in float64, where no rounding can turn the sign of a gradient, and images.

    Labels are what it says but for every fifth, which it gets wrong.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, classes)).double()
    x = torch.rand((40, 1, 6, 6), dtype=torch.float64)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % classes
    return model, x, y


def rng(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run_to_the_end(attack: PGD, model, x, y, source) -> torch.Tensor:
    """Survivors of PGD by the slow way: every image takes every step of every restart, and every point is looked at."""
    step = attack.epsilon / 4 if attack.step_size is None else attack.step_size
    stands = model(x).argmax(1) == y
    for _ in range(attack.restarts):
        delta = torch.empty_like(x).uniform_(-attack.epsilon, attack.epsilon, generator=source)
        delta = delta.clamp(-x, 1 - x)
        for _ in range(attack.steps):
            gradient, logits = gradient_and_logits(model, x + delta, y, attack.loss)
            stands &= logits.argmax(1) == y
            delta = (delta + step * gradient.sign()).clamp(-attack.epsilon, attack.epsilon).clamp(-x, 1 - x)
        stands &= model(x + delta).argmax(1) == y
    return stands


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.06, steps=7, restarts=3),
        PGD(epsilon=0.3, steps=1, step_size=1e-3, restarts=4),  # who is broken hangs on the draw of the starts
        CW(epsilon=0.06, steps=9),
    ],
)
def test_early_stopping_of_attacks_does_not_change_results(attack):
    model, x, y = classifier()
    expected = run_to_the_end(attack, model, x, y, rng())
    assert 0 < expected.sum() < len(y)
    assert torch.equal(attack.robust_mask(model, x, y, rng()), expected)


def test_broken_images_leave_the_batch():
    model, x, y = classifier()
    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    left = PGD(epsilon=0.06, steps=12).robust_mask(model, x, y, rng())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(x) and sizes[1] == 32 and sizes[-1] < 32
    assert sizes[-1] >= left.sum() > 0


def test_a_batch_shrinks_through_few_sizes():
    model, x, y = classifier()
    x, y = x.repeat(5, 1, 1, 1), y.repeat(5)
    sizes = set()
    model.register_forward_pre_hook(lambda module, inputs: sizes.add(len(inputs[0])))
    attack = PGD(epsilon=0.06, steps=12, restarts=2)
    found = attack.robust_mask(model, x, y, rng())
    assert len(x) in sizes and 2 < len(sizes) <= BATCH_SIZES and all(size % 7 == 0 for size in sizes - {len(x)})
    assert torch.equal(found, run_to_the_end(attack, model, x, y, rng()))


def test_an_image_of_a_wrong_class_is_broken_for_attacks_that_search_and_judged_at_its_point_by_the_others():
    model, x, y = classifier()
    wrong = model(x).argmax(1) != y
    for attack in (PGD(epsilon=1e-9), CW(epsilon=1e-9)):
        assert torch.equal(attack.robust_mask(model, x, y, rng()), ~wrong)
    assert torch.equal(Clean().robust_mask(model, x, y), ~wrong)
    delta = FGSM(epsilon=0.3)(model, x, y)
    assert torch.equal(FGSM(epsilon=0.3).robust_mask(model, x, y), model(x + delta).argmax(1) == y)


def test_a_stronger_attack_breaks_every_image_that_a_weaker_one_breaks():
    model, x, y = classifier()
    short, long = PGD(epsilon=0.05, steps=5), PGD(epsilon=0.05, steps=12, restarts=2)
    assert long.covers(short) and long.covers(Clean()) and not short.covers(long)
    assert not PGD(epsilon=0.05, steps=12).covers(long)
    assert not long.covers(FGSM(epsilon=0.05)) and not long.covers(CW(epsilon=0.05, steps=5))
    assert not long.covers(PGD(epsilon=0.04, steps=5)) and not long.covers(PGD(epsilon=0.05, steps=5, step_size=0.01))
    assert AutoAttack(epsilon=0.05).covers(Clean()) and not AutoAttack(epsilon=0.05).covers(short)
    left, alone = short.robust_mask(model, x, y, rng()), long.robust_mask(model, x, y, rng())
    assert not (alone & ~left).any()
    assert torch.equal(long.robust_mask(model, x, y, rng(), candidates=left), alone)


def test_the_margin_equals_a_computation_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [-5.0, -6.0, -7.0]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [-1.0, 2.0, 2.0]


def test_cw_climbs_the_margin_and_pgd_the_cross_entropy():
    model, x, y = classifier()
    cw, pgd = CW(epsilon=0.1)(model, x, y, rng()), PGD(epsilon=0.1, steps=30)(model, x, y, rng())
    assert margin(model(x + cw), y).mean() > margin(model(x + pgd), y).mean() > margin(model(x), y).mean()
    assert cross_entropy(model(x + pgd), y).mean() > cross_entropy(model(x + cw), y).mean()


def test_gaussian_noise_has_its_spread_and_stays_in_the_image():
    grey = torch.full((50, 1, 40, 40), 0.5)
    delta = Gaussian()(nn.Identity(), grey, torch.zeros(50).long(), rng())
    assert abs(delta.std().item() - 0.1) < 0.002 and abs(delta.mean().item()) < 0.002
    assert delta.abs().max() > 0.3  # in no ε-ball
    white = Gaussian()(nn.Identity(), torch.ones(5, 1, 9, 9), torch.zeros(5).long(), rng())
    assert white.max() <= 0 and white.min() < 0


def test_attacks_by_name_and_their_labels():
    assert named_attack("pgd50x10", 0.1) == PGD(epsilon=0.1, steps=50, restarts=10)
    assert named_attack("cw", 0.1) == CW(epsilon=0.1, steps=30) == named_attack("cw30", 0.1)
    assert named_attack("cw", 0.1) != named_attack("pgd30", 0.1)
    assert named_attack("gaussian", 0.1) == Gaussian(sigma=0.1)
    assert [attack_label(n) for n in ("aa", "cw", "cw20", "pgd50x10", "fgsm", "clean")] == [
        "AutoAttack",
        "C&W",
        "C&W-20",
        "PGD-50×10",
        "FGSM",
        "clean",
    ]
    assert [epsilon_label(e) for e in (8 / 255, 1.0, 0.2, 0.14, 0.031, 1e-9)] == [
        "8/255",
        "1",
        "0.2",
        "0.14",
        "0.031",
        "1e-09",
    ]
    for name in ("pgd", "pgd0", "cwx2", "autoattack"):
        with pytest.raises(UserError, match="unknown attack"):
            named_attack(name, 0.1)


def test_evaluate_measures_the_whole_test_set(runs):
    path = runs / "fgsm"
    frame = co_probe.evaluate(path, ["clean", "fgsm", "pgd20"], epoch="last")
    run = co_probe.open_run(path)
    x, y = to_unit(run.data.test_x), run.data.test_y
    model = run.load_model(run.last_epoch)
    value = frame.set_index("attack")["value"]
    assert value["clean"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    delta = FGSM(epsilon=run.epsilon)(model, x, y)
    assert value["fgsm"] == pytest.approx((model(x + delta).argmax(1) == y).float().mean().item(), abs=0.0021)
    assert (frame["n"][:3] == len(y)).all() and (frame["epoch"] == run.last_epoch).all()
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    seconds = [run.metrics(epoch)["seconds"] for epoch in run.epochs]
    assert frame["quantity"].tolist() == ["accuracy"] * 3 + ["seconds"]
    assert value[""] == sorted(seconds)[1] and len(seconds) == 3
    stored = StoredRun(path).frame("eval")
    assert set(stored["attack"]) == {"clean", "fgsm", "pgd20", ""}


def test_images_are_those_that_a_larger_evaluation_starts_with(runs, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 50)
    few = co_probe.evaluate(runs / "fgsm", ["clean"], images=100)
    assert few["n"][0] == 100
    labels = []
    more = co_probe.evaluate(runs / "fgsm", ["clean"], images=150, progress=lambda *seen: labels.append(seen))
    assert labels == [("fgsm clean", 1, 1)]  # the first two batches were there
    order = evaluation.image_order(500)
    run = co_probe.open_run(runs / "fgsm")
    model = run.load_model(run.best_epoch)
    right = model(to_unit(run.data.test_x[order])).argmax(1) == run.data.test_y[order]
    assert few["value"][0] == pytest.approx(right[:100].float().mean().item())
    assert more["value"][0] == pytest.approx(right[:150].float().mean().item())


def test_each_column_equals_its_attack_run_separately(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "pgd", tmp_path / "again")
    together = co_probe.evaluate(runs / "pgd", ["clean", "fgsm", "pgd3", "pgd6", "cw6"], images=200)
    for name in ("pgd6", "cw6", "pgd3"):
        alone = co_probe.evaluate(tmp_path / "again", [name], images=200)
        assert alone["value"][0] == together.set_index("attack")["value"][name]
        (tmp_path / "again" / "results.h5").unlink()


class Killed(BaseException):
    pass


def test_a_killed_evaluation_is_resumed(runs, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 100)
    asked = []
    for attack in (Clean, PGD):
        original = attack.robust_mask_unchecked

        def counted(self, model, x, y, rng=None, targets=None, candidates=None, original=original):
            if len(asked) == 7:
                raise Killed
            asked.append((type(self).__name__, len(x)))
            return original(self, model, x, y, rng, targets, candidates)

        monkeypatch.setattr(attack, "robust_mask_unchecked", counted)
    with pytest.raises(Killed):
        co_probe.evaluate(runs / "pgd", ["clean", "pgd5"])
    assert asked == [("Clean", 100)] * 5 + [("PGD", 100)] * 2
    halfway = StoredRun(runs / "pgd").frame("eval")
    assert halfway["attack"].tolist() == ["clean", ""]  # no number of PGD yet: it is not through

    monkeypatch.undo()
    monkeypatch.setattr(evaluation, "BATCH", 100)
    seen = []
    resumed = co_probe.evaluate(runs / "pgd", ["clean", "pgd5"], progress=lambda *step: seen.append(step))
    assert seen == [("pgd pgd5", done, 3) for done in (1, 2, 3)]
    (runs / "pgd" / "results.h5").unlink()
    afresh = co_probe.evaluate(runs / "pgd", ["clean", "pgd5"])
    pd.testing.assert_frame_equal(resumed, afresh)


def test_a_finished_evaluation_writes_nothing(runs):
    first = co_probe.evaluate(runs / "fgsm", ["clean", "pgd2"], images=60)
    before = (runs / "fgsm" / "results.h5").stat().st_mtime_ns
    seen = []
    again = co_probe.evaluate(runs / "fgsm", ["pgd2", "clean"], images=60, progress=lambda *step: seen.append(step))
    assert (runs / "fgsm" / "results.h5").stat().st_mtime_ns == before and not seen
    assert again["attack"].tolist() == ["pgd2", "clean", ""]
    assert sorted(again["value"]) == sorted(first["value"])


def test_autoattack_without_its_package_is_one_line_but_stored_results_can_be_read(runs, monkeypatch):
    monkeypatch.setattr(AutoAttack, "version", "pyautoattack 0.1")
    monkeypatch.setattr(
        AutoAttack, "robust_mask_unchecked", lambda self, model, x, y, rng=None, targets=None, candidates=None: y == 3
    )
    stored = co_probe.evaluate(runs / "fgsm", ["aa"], images=40)
    assert stored["version"].tolist() == ["pyautoattack 0.1", ""]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    pd.testing.assert_frame_equal(co_probe.evaluate(runs / "fgsm", ["aa"], images=40), stored)
    result = CliRunner().invoke(cli, ["eval", str(runs / "fgsm"), "--attacks", "clean,aa"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == 'AutoAttack needs another package: pip install "co-probe[autoattack]"'
    assert not len(StoredRun(runs / "fgsm").frame("eval").query("attack == 'clean'"))  # refused before any work


def test_best_epoch_and_wrong_epochs(runs):
    run = co_probe.open_run(runs / "pgd")
    accuracies = {epoch: run.metrics(epoch)["pgd10"] for epoch in run.epochs}
    assert accuracies[run.best_epoch] == max(accuracies.values())
    assert all(accuracies[epoch] < accuracies[run.best_epoch] for epoch in run.epochs if epoch < run.best_epoch)
    assert pick_epoch(run, "2") == 2 and pick_epoch(run, "last") == 3
    with pytest.raises(UserError, match="no epoch 9"):
        co_probe.evaluate(runs / "pgd", ["clean"], epoch=9)
    with pytest.raises(UserError, match="best, last or a number"):
        co_probe.evaluate(runs / "pgd", ["clean"], epoch="first")


def test_the_table_in_all_its_formats(runs):
    def show(*options: str) -> str:
        arguments = ["eval", "--runs", str(runs), "--attacks", "clean,pgd2", "--images", "50", *options]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    people = show()
    assert "PGD-2" in people and "seconds/epoch" in people and "50 test images" in people
    records = {(r["run"], r["attack"]): r["value"] for r in json.loads(show("--json")) if r["quantity"] == "accuracy"}
    assert len(records) == 8
    markdown = [line for line in show("--markdown").splitlines() if line.startswith("| ")]
    assert len(markdown) == 6 and len({line.count("|") for line in markdown}) == 1
    assert f"| {100 * records['fgsm', 'clean']:.2f} |" in next(line for line in markdown if line.startswith("| fgsm "))
    latex = show("--latex")
    assert r"\toprule" in latex and latex.count(r"\\") == 5 and r"$\varepsilon$" in latex
    assert show("--csv").splitlines()[0].startswith("run,method,seed,epoch,probe,attack,epsilon,version,quantity,value")


def test_the_table_of_means(runs):
    import shutil

    (runs / "pgd").rename(runs / "pgd-0")
    shutil.copytree(runs / "pgd-0", runs / "pgd-1")
    frames = [co_probe.evaluate(runs / "pgd-0", ["clean"], epoch=e, images=100)["value"][0] for e in (1, 3)]
    one = co_probe.evaluate(runs / "pgd-0", ["clean"], epoch=1, images=100)
    other = co_probe.evaluate(runs / "pgd-1", ["clean"], epoch=3, images=100)
    from co_probe.cli.eval import by_method

    header, rows = by_method(pd.concat([one, other]))
    assert header == ["method", "ε", "runs", "clean", "seconds/epoch"]
    half = abs(frames[0] - frames[1]) / 2**0.5
    assert rows[0][:4] == ["pgd", "0.14", "2", f"{50 * sum(frames):.2f} ± {100 * half:.2f}"]


def test_trade_off_measures_missing_points_and_draws_a_line_per_method(runs):
    opened = [StoredRun(runs / name) for name in ("fgsm", "pgd")]
    co_probe.evaluate(opened[0].path, ["clean", "pgd20"], images=100)
    seen = []
    figure = co_probe.draw("trade-off", opened, progress=lambda *step: seen.append(step[0]))
    assert set(seen) == {"pgd clean", "pgd pgd20"}
    (ax,) = figure.axes
    value = opened[0].frame("eval").set_index("attack")["value"] * 100
    drawn = {tuple(line.get_xydata()[0]) for line in ax.lines}
    assert (pytest.approx(value["clean"]), pytest.approx(value["pgd20"])) in [tuple(map(float, p)) for p in drawn]
    assert [text.get_text() for text in ax.texts] == ["0.14", "0.14"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FGSM", "PGD"]


def test_trade_off_orders_points_by_epsilon_and_averages_seeds():
    from co_probe.plots.trade_off import trade_off

    rows = [
        {
            "run": f"{e}-{s}",
            "method": "pgd",
            "attack": a,
            "epsilon": e / 255,
            "quantity": "accuracy",
            "value": v + s / 10,
        }
        for e in (12, 4, 8)
        for s in (-1, 1)
        for a, v in (("clean", 0.9 - e / 100), ("pgd20", 0.2 + e / 100))
    ]
    ax = trade_off(pd.DataFrame(rows))
    points = ax.containers[0].lines[0].get_xydata()
    assert points.ravel().tolist() == pytest.approx([86, 24, 82, 28, 78, 32])
    assert [text.get_text() for text in ax.texts] == ["4", "8", "12"]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
