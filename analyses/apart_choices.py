"""APART on digits, trained with each choice on which the paper's text and the published code leave room.

    python analyses/apart_choices.py            trains what is missing into sweeps/apart-choices, then writes the table

Runs are resumed, one at a time, seed by seed. The table (figures/digits/apart-choices.md) has the last epoch's accuracy
and gap, mean ± standard deviation over the seeds that are finished; beside it are the tidy numbers and the machine and
versions.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import co_probe
from co_probe.methods.apart import APART, NO_BLOCKS, away_from_zero, pack, unpack
from co_probe.methods.base import Batch, StepResult, TrainingContext
from co_probe.methods.block_inputs import BlockInputs, find_blocks
from co_probe.store import StoredRun

PROBE = {"test": 200, "train": 200}


class FirstPass(APART):
    """ω moves by the sign of the first pass's gradient, the one that δ₁ steps along, instead of the second's."""

    def signs(self, model: nn.Module, x: Tensor, y: Tensor, blocks: BlockInputs) -> tuple[Tensor, dict[str, Tensor]]:
        result = super().signs(model, x, y, blocks)
        if blocks is not NO_BLOCKS:  # a training step, no measurement
            self.first = result[0]
        return result

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        omega, alpha = unpack(batch.view.take(self.omega)), self.alpha.detach()
        result = super().step(model, batch)  # α moves afterwards, in `update`
        moved = omega + alpha[1] / away_from_zero(alpha[0]) * self.first
        batch.view.put(self.omega, pack(moved.clamp(-1, 1), self.omega.dtype))
        return result


class BlockInput(APART):
    """Blocks are perturbed at their input, before the first BatchNorm and ReLU; the shortcut does not see it."""

    def find_blocks(self, model: nn.Module) -> dict[str, nn.Module]:
        names = [name.removesuffix("conv1") + "bn1" for name in find_blocks(model)]
        return {name: model.get_submodule(name) for name in names}


class FasterDecay(APART):
    """Step sizes decay three times as fast: 2λ + 2e-4·0.2/5e-8 = 1200 in raw units instead of 2λ = 400.

    The published code gives all parameters to the optimizer of the weights too, step sizes included. Their gradients
    are zeros by then, not None, in the PyTorch of its time: that optimizer decays them once more.
    """

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        super().setup(model, context)
        self.optimizer.param_groups[0]["weight_decay"] *= 3


class PlainAscent(APART):
    """Step sizes ascend without momentum."""

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        super().setup(model, context)
        self.optimizer.param_groups[0]["momentum"] = 0.0


class CycledMomentum(APART):
    """The momentum of weights and step sizes falls from 0.9 to 0.8 as the learning rate rises, and comes back.

    This is what PyTorch's CyclicLR does by default, and the published code trains with that. Only one such training
    per process: the hook is on every optimizer.
    """

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        super().setup(model, context)
        self.share = 0.0
        register_optimizer_step_pre_hook(self.cycle)

    def cycle(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["momentum"] = 0.9 - 0.1 * self.share

    def step(self, model: nn.Module, batch: Batch) -> StepResult:
        self.share = batch.lr_scale
        return super().step(model, batch)


@dataclass(frozen=True)
class Variant:
    """One choice: what it is, who makes it, and the method or settings that make it here."""

    name: str
    title: str
    method: str = "apart"
    settings: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("default", "`apart` as it is here"),
    Variant("decay", "code: α decays three times as fast", "apart_choices:FasterDecay"),
    Variant("momentum", "code: momentum 0.9 → 0.8 → 0.9, of θ and α", "apart_choices:CycledMomentum"),
    Variant("first-pass", "ω moves by the first pass's gradient", "apart_choices:FirstPass"),
    Variant("block-input", "blocks perturbed before BatchNorm and ReLU", "apart_choices:BlockInput"),
    Variant("no-momentum", "α ascends without momentum", "apart_choices:PlainAscent"),
    Variant("weight-decay", "code: weight decay 2e-4 instead of 5e-4", settings={"optimizer": {"weight_decay": 2e-4}}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 [default: 3]")
    parser.add_argument("--runs", type=Path, default=Path("sweeps/apart-choices"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "digits")
    parser.add_argument("--variants", nargs="+", default=[v.name for v in VARIANTS], help="train these only")
    parser.add_argument("--table", action="store_true", help="train nothing: the table of the runs that are there")
    arguments = parser.parse_args()
    for seed in range(0 if arguments.table else arguments.seeds):
        for variant in (variant for variant in VARIANTS if variant.name in arguments.variants):
            folder = arguments.runs / f"{variant.name}-seed{seed}"
            with ProcessPoolExecutor(1) as pool:  # a process of its own: CycledMomentum leaves a hook behind
                pool.submit(train, variant, seed, folder).result()
            print(folder, "trained", flush=True)
    co_probe.allow("apart_choices")  # the runs name the classes above
    cells = [(variant, seed) for variant in VARIANTS for seed in range(arguments.seeds)]
    measured = (measure(variant, seed, arguments.runs / f"{variant.name}-seed{seed}") for variant, seed in cells)
    rows = [row for row in measured if row is not None]
    frame = pd.DataFrame(rows)
    frame.to_csv(arguments.out / "apart-choices.csv", index=False, float_format="%.6g")
    command = f"python analyses/apart_choices.py --seeds {arguments.seeds}"
    stored = StoredRun(arguments.runs / f"{VARIANTS[0].name}-seed0")
    (arguments.out / "apart-choices.md").write_text(markdown(frame, stored, command))
    about = {"command": command, **stored.environment}
    (arguments.out / "apart-choices.json").write_text(json.dumps(about, indent=1) + "\n")


def train(variant: Variant, seed: int, folder: Path) -> None:
    """Train one variant with one seed, or go on with it."""
    resume = (folder / "run.h5").exists()
    co_probe.train(
        variant.method, preset="digits", out=folder, resume=resume, seed=seed, probe=PROBE, **variant.settings
    )


def measure(variant: Variant, seed: int, folder: Path) -> dict[str, Any] | None:
    """The last epoch's numbers of a finished run; None if it is not finished.

    `clean` and `pgd10` are accuracies on all test images; `gap` is on those of the run's probe set, in nats.
    """
    if not (folder / "run.h5").exists():
        return None
    stored = StoredRun(folder)
    if stored.last_epoch < stored.config.epochs:
        return None
    metrics, alpha = stored.metrics(stored.last_epoch), stored.method_parameters(stored.last_epoch)["alpha"]
    accuracy = co_probe.evaluate(folder, ["clean", "pgd10"], epoch="last").set_index("attack")
    blocks = [value for name, value in alpha.items() if name not in ("omega", "input")]
    return {
        "variant": variant.name,
        "seed": seed,
        **{name: accuracy.loc[name, "value"] for name in ("clean", "pgd10")},
        "images": int(accuracy.loc["pgd10", "n"]),
        "gap": metrics["gap"],
        "alpha_input": alpha["input"],
        "alpha_omega": alpha["omega"],
        "alpha_blocks": sum(blocks) / len(blocks),
    }


def markdown(frame: pd.DataFrame, stored: StoredRun, command: str) -> str:
    """Mean ± standard deviation (n − 1) over seeds, one line per variant."""
    config, seeds = stored.config, sorted(frame["seed"].unique())
    versions = ", ".join(f"{key}: {value}" for key, value in stored.environment.items())
    lines = [
        f"APART on digits, one choice changed at a time: ε = {config.epsilon:g} with warm-up, {config.epochs} epochs, "
        f"batches of {config.batch_size}, seeds {', '.join(map(str, seeds))}; after the last epoch. "
        f"Accuracy on {frame['images'].iloc[0]} test images; gap from FGSM to PGD-10, in nats, on {PROBE['test']}; α "
        "in units of ε. Mean ± standard deviation over seeds.",
        "",
        "| choice | clean (%) | PGD-10 (%) | PGD-10, each seed | gap | α input | α ω | α blocks, mean |",
        "|---" * 8 + "|",
    ]
    for variant in VARIANTS:
        rows = frame[frame["variant"] == variant.name]
        if rows.empty:
            continue
        cells = [spread(100 * rows[name], 1) for name in ("clean", "pgd10")]
        cells.append(", ".join(f"{100 * value:.1f}" for value in rows["pgd10"]))
        cells.append(spread(rows["gap"], 3))
        cells += [spread(rows[f"alpha_{name}"], 2) for name in ("input", "omega", "blocks")]
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`{command}`; {versions}"]) + "\n"


def spread(values: pd.Series, digits: int) -> str:
    """Mean and standard deviation as text."""
    deviation = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
