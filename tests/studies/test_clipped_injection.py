"""Carriers lead out of [0, 1], and only perturbed images are clipped: such runs train and are measured."""

from conftest import tiny_config

import co_probe
from co_probe.attacks import FGSM
from co_probe.training.loop import epochs


def test_a_run_with_clipped_carriers_is_trained_and_measured(tmp_path):
    config = tiny_config("fgsm", inject={"beta": 0.1}, epochs=1)
    list(epochs(config, tmp_path / "run", device="cpu"))
    run = co_probe.open_run(tmp_path / "run")
    x, y = run.test_data()
    assert run.info.bounds == (0.0, 1.0) and x.min() < 0 and x.max() > 1
    perturbed = x + FGSM(epsilon=run.epsilon).generate(run.load_model(1), x, y)
    assert perturbed.min() >= 0 and perturbed.max() <= 1 + 1e-6
    assert len(co_probe.gap(run, "pgd3", device="cpu")) and len(co_probe.probe("alignment", run, device="cpu"))
    frame = co_probe.evaluate(run, ["clean", "fgsm", "pgd2x2"], images=20, device="cpu")
    assert {"clean", "fgsm", "pgd2x2"} <= set(frame["attack"])
