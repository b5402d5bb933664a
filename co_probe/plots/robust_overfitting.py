"""Training accuracy rises while robust test accuracy falls: Figure 5 of arXiv 2010.08034."""

from matplotlib.figure import Figure

from co_probe.config.labels import attack_label
from co_probe.plots.gap import gap
from co_probe.plots.lines import epoch_lines, name_lines, percent_axis, shade_episodes
from co_probe.plots.spec import AGAINST, GENERATOR, Episodes, FigureSpec, Frames, probed, stored
from co_probe.plots.style import panels


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw training accuracy (on perturbed images; if recorded), test accuracy under B, and the gap to B."""
    metrics, measured = frames["metrics"], frames["gap"]
    against = attack_label(measured["against"].iloc[0])
    trained = metrics[metrics["quantity"] == "train_accuracy"]
    figure, axes = panels(3 if len(trained) else 2, height=1.7, sharex=True)
    *above, test, bottom = axes
    for training in above:
        epoch_lines(trained, training, scale=100, episodes=episodes)
        training.set_ylabel("training accuracy (%)")
    epoch_lines(measured[measured["quantity"] == "accuracy"], test, scale=100, episodes=episodes)
    test.set_ylabel(f"test accuracy\nunder {against} (%)")
    for ax in (*above, test):
        percent_axis(ax)
        shade_episodes(measured, ax, episodes, name=ax is axes[0])
        ax.set_xlabel("")
    gap(measured, bottom, episodes, name=False)
    bottom.set_ylabel(f"gap to {against} (nats)\nlarger = weaker")
    if not all([name_lines(ax) for ax in axes]):
        handles, labels = test.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1, handlelength=1.6)
    return figure


FIGURE = FigureSpec(
    draw=draw,
    tables={"metrics": stored("metrics"), "gap": probed("gap", against=AGAINST, generator=GENERATOR)},
    against="pgd20",
)
