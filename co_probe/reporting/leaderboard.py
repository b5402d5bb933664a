"""Leaderboards: methods by robust accuracy, with spread over seeds, verdict and cost."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from co_probe.config.labels import AttackLike, attack_label, attack_name, bound_label, chosen_label, method_label
from co_probe.config.version import package_version
from co_probe.diagnosis.stored import verdict_of
from co_probe.diagnosis.verdict import OVERFITTED, Verdict
from co_probe.errors import UserError
from co_probe.numerics.statistics import wilson
from co_probe.probes.eval import Eval, evaluate
from co_probe.probes.runner import Progress, live_run
from co_probe.reporting.tables import latex_table, markdown_table, mean_and_spread
from co_probe.store import RunLike, StoredRun, opened

ATTACKS = ("clean", "pgd50x10", "aa")
EPOCHS = ("best", "last")
AUTOATTACK = "aa"
HIDDEN = 0.5
"""Ratio of AutoAttack to PGD accuracy below which, by its 95% interval, PGD has missed a collapse."""

NO_COLLAPSE = {
    "healthy": "healthy",
    "recovered": "recovered",
    "robust-overfitting": "robust overfitting",
    "diverged": "diverged",
    "never-robust": "never robust",
    "undecided": "undecided",
}
"""Verdicts without a final collapse -> text in the table."""

Column = tuple[str, str]  # (`best` or `last`, attack)


@dataclass
class Entry:
    """Runs that differ only in their seeds.

    Attributes:
        method: Label of the method, followed by the name of the first run if a table has several such entries.
        name: Name of the first run.
        settings: Settings without the seed, as JSON.
        seeds: Distinct seeds of the runs; −1 if unknown.
        verdicts: Kind of the verdict on each run, from `NO_COLLAPSE`, or `collapsed`.
        accuracy: Accuracies in [0, 1] of measured runs, by epoch and attack.
        passes: Cost of a training step in forward passes; None if unknown.
        seconds: Duration of training of each run, in seconds, if recorded.
    """

    method: str
    name: str = ""
    settings: str = ""
    seeds: list[int] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    accuracy: dict[Column, list[float]] = field(default_factory=dict)
    passes: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def collapsed(self) -> int:
        """Number of runs that have collapsed."""
        return self.verdicts.count("collapsed")

    @property
    def verdict(self) -> str:
        """Verdicts in a few words: `2/3 collapsed`, `healthy`."""
        if self.collapsed:
            return f"{self.collapsed}/{len(self.verdicts)} collapsed"
        (kind, count), *rest = Counter(self.verdicts).most_common()
        return NO_COLLAPSE[kind] + (f" ({count}/{len(self.verdicts)})" if rest else "")

    def mean(self, column: Column) -> float:
        """Return the mean accuracy; −1 if not measured, for sorting."""
        values = self.accuracy.get(column, [])
        return statistics.fmean(values) if values else -1.0


@dataclass
class Board:
    """A table of methods on one data set, with one network and ε, the best first.

    Attributes:
        data: Name of the data set.
        model: The network and its settings.
        epsilon: Bound of perturbations.
        norm: Norm that ε bounds.
        columns: Measured epochs and attacks, in order.
        entries: Methods, sorted by accuracy under the last attack at the first epoch, then at the next.
        chosen: Split of best epochs: `chosen on test images`.
        sizes: Numbers of test images, by attack.
    """

    data: str
    model: str
    epsilon: float
    norm: str
    columns: list[Column]
    entries: list[Entry] = field(default_factory=list)
    chosen: str = ""
    sizes: dict[str, set[int]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title without numbers of images: `digits, ε = 0.15, preact_resnet`."""
        return f"{self.data}, {bound_label(self.epsilon, self.norm)}, {self.model}"

    @property
    def details(self) -> str:
        """Description of the numbers, with numbers of images."""
        images = "; ".join(
            f"{attack_label(name)} on {' or '.join(f'{n:,}' for n in sorted(sizes))} test images"
            for name, sizes in self.sizes.items()
        )
        at = {"best": f"at the best epoch ({self.chosen})", "last": "at the last epoch"}
        epochs = " and ".join(at[name] for name in dict.fromkeys(name for name, _ in self.columns))
        accuracy = f"Accuracy (%) {epochs}, mean ± standard deviation over seeds: {images}"
        if not self.columns:
            accuracy = "No accuracy is stored"
        return (
            f"{accuracy}. Collapsed: seeds that ended in catastrophic overfitting. Passes: cost of a training step in "
            "forward passes, a third of which is its cost relative to clean training. Seconds: of training."
        )

    @property
    def caption(self) -> str:
        """Title and details."""
        return f"{self.title}. {self.details}"

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        named = [attack_label(name) + ("" if at == EPOCHS[0] else f", {at}") for at, name in self.columns]
        return ["method", "seeds", *named, "verdict", "passes", "seconds"]

    def rows(self) -> list[list[str]]:
        """Format the cells."""
        return [
            [
                entry.method,
                str(len(entry.seeds)),
                *(mean_and_spread(entry.accuracy.get(column, []), _percent) for column in self.columns),
                entry.verdict,
                "–" if entry.passes is None else f"{entry.passes:.1f}",
                mean_and_spread(entry.seconds, "{:.0f}".format),
            ]
            for entry in self.entries
        ]


@dataclass(frozen=True)
class Leaderboard:
    """Tables of methods, one per data set, network and ε.

    Attributes:
        boards: The tables.
    """

    boards: list[Board]

    def frame(self) -> pd.DataFrame:
        """Return all numbers as a tidy table.

        Returns:
            Columns data, model, epsilon, norm, method, at (`best` or `last`; empty for quantities of the whole run),
            quantity (an attack, `collapsed`: share of runs, `passes` or `seconds`), value (mean), sd (n − 1; NaN for
            one run) and n (number of runs).
        """
        rows = []
        for board in self.boards:
            about = {"data": board.data, "model": board.model, "epsilon": board.epsilon, "norm": board.norm}
            for entry in board.entries:
                for at, quantity, values in _numbers(entry):
                    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
                    row = {"method": entry.method, "at": at, "quantity": quantity, "value": statistics.fmean(values)}
                    rows.append(about | row | {"sd": spread, "n": len(values)})
        return pd.DataFrame(rows)

    def to_csv(self) -> str:
        """Return `frame` as CSV."""
        return self.frame().to_csv(index=False, float_format="%.6g")

    def to_markdown(self) -> str:
        """Return the tables in Markdown."""
        tables = (markdown_table(board.caption, board.header, board.rows()) for board in self.boards)
        return "\n\n".join(tables) + "\n"

    def to_latex(self) -> str:
        """Return the tables in LaTeX, with booktabs rules."""
        return "\n\n".join(latex_table(board.caption, board.header, board.rows()) for board in self.boards) + "\n"

    def to_html(self) -> str:
        """Return a self-contained page with bars for accuracies."""
        from co_probe.reporting.pages import environment, text

        template = environment().from_string(text("leaderboard.html.jinja"))
        return template.render(boards=self.boards, version=package_version(), spread=mean_and_spread, percent=_percent)

    def __str__(self) -> str:
        return self.to_markdown()


def leaderboard(
    runs: RunLike | Iterable[RunLike],
    *,
    attacks: Sequence[AttackLike] = ATTACKS,
    epochs: Sequence[str] = EPOCHS,
    images: int | None = None,
    quick: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Leaderboard:
    """Compare methods: accuracy over seeds, number of seeds that collapsed, and cost, one table per data set and ε.

    A run counts as collapsed if its verdict is catastrophic overfitting to the end or from the start, if its gradients
    are masked, or if AutoAttack accuracy is below half of PGD accuracy, since PGD-50 with ten restarts can miss a
    collapse. Runs that differ only in their seeds share a row.

    Args:
        runs: Paths or runs, one or several.
        attacks: Attacks or their names, with the one to sort by last. Results are stored with the runs.
        epochs: `best`, `last` or both.
        images: Number of test images, the first of a fixed shuffle. If None, all; with `quick`, the greatest stored
            number.
        quick: Use stored results only; missing ones are empty.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called after each batch with run and attack, the number of finished batches, and of all batches.

    Returns:
        The tables, which can be printed and converted to Markdown, LaTeX, CSV and HTML.

    Raises:
        UserError: For an unknown name, or if AutoAttack's package is missing.

    Example:
        >>> board = co_probe.leaderboard(["runs/fgsm", "runs/pgd"], attacks=["clean", "pgd20"], images=500)
        >>> Path("board.html").write_text(board.to_html())
    """
    from co_probe.benchmarks.passes import passes_of

    stored = [run for run in opened(runs) if run.epochs]
    if not stored:
        raise UserError("name at least one run with a finished epoch")
    if unknown := sorted(set(epochs) - set(EPOCHS)):
        raise UserError(f"epochs must be best, last or both, not {unknown[0]!r}")
    names = [attack_name(attack) for attack in attacks]
    if not quick:
        stored = [live_run(run) for run in stored]  # these hold results that cannot be written
        for at in epochs:
            evaluate(stored, attacks, epoch=at, images=images, device=device, progress=progress)
    boards: dict[tuple[str, str, float, str], Board] = {}
    for run in stored:
        info = run.info
        model = " ".join([info.model.name, *(f"{key}={value}" for key, value in info.model.settings.items())])
        key = info.data, model, info.epsilon, info.norm
        columns = [(at, name) for at in epochs for name in names]
        board = boards.setdefault(
            key, Board(*key, columns=columns, chosen=chosen_label([run.chosen_on]).removeprefix("best epoch "))
        )
        results = {at: _results(run, attacks, at, images) for at in epochs}
        entry = _entry(board, run)
        entry.verdicts.append(_kind(verdict_of(run), results))
        for at, name in columns:
            if name in results[at]:
                value, n = results[at][name]
                entry.accuracy.setdefault((at, name), []).append(value)
                board.sizes.setdefault(name, set()).add(n)
        if seconds := run.metric("seconds"):
            entry.seconds.append(sum(seconds.values()))
        if entry.passes is None:
            entry.passes = passes_of(run, measure=not quick)
    for board in boards.values():
        counts = Counter(entry.method for entry in board.entries)
        for entry in board.entries:
            entry.method += f" ({entry.name})" if counts[entry.method] > 1 else ""
        known = {column for entry in board.entries for column in entry.accuracy}
        board.columns = [column for column in board.columns if column in known]
        order = sorted(board.columns, key=lambda column: (-names.index(column[1]), epochs.index(column[0])))
        board.entries.sort(key=lambda entry: [-entry.mean(column) for column in order])
    return Leaderboard(list(boards.values()))


def _entry(board: Board, run: StoredRun) -> Entry:
    """Add a run to the entry with its settings and without its seed, or to a new entry."""
    info = run.info
    method = method_label(info.method)
    settings = {name: value for name, value in (info.settings or {}).items() if name != "seed"}
    told = json.dumps([settings, run.chosen_weights], sort_keys=True, default=str)
    seed = -1 if info.seed is None else info.seed
    for entry in board.entries:
        if entry.method == method and entry.settings == told and seed not in entry.seeds:
            entry.seeds.append(seed)
            return entry
    board.entries.append(Entry(method, run.name, told, [seed]))
    return board.entries[-1]


def _results(
    run: StoredRun, attacks: Sequence[AttackLike], at: str, images: int | None
) -> dict[str, tuple[float, int]]:
    """Return stored results, {attack: (accuracy, number of images)}."""
    frame = Eval(attacks=list(attacks), epoch=at, images=images).select(run.frame("eval"), run)
    return {str(row.attack): (float(row.value), int(row.n)) for row in frame.itertuples()}


def _kind(found: Verdict, results: dict[str, dict[str, tuple[float, int]]]) -> str:
    """Return the kind of a verdict, corrected by AutoAttack."""
    if found.kind in ("catastrophic", "masked") or OVERFITTED in found.reasons:
        return "collapsed"
    return "collapsed" if any(_missed_by_pgd(each) for each in results.values()) else found.kind


def _missed_by_pgd(results: dict[str, tuple[float, int]]) -> bool:
    """Return whether AutoAttack breaks most images that PGD does not break."""
    if AUTOATTACK not in results:
        return False
    high = wilson(*results[AUTOATTACK])[1]
    return any(high < HIDDEN * value for name, (value, _) in results.items() if name.startswith("pgd"))


def _numbers(entry: Entry) -> Iterator[tuple[str, str, list[float]]]:
    for (at, name), values in entry.accuracy.items():
        yield at, name, values
    yield "", "collapsed", [float(kind == "collapsed") for kind in entry.verdicts]
    if entry.passes is not None:
        yield "", "passes", [entry.passes]
    if entry.seconds:
        yield "", "seconds", entry.seconds


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
