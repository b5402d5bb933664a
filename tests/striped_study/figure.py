from co_probe.plots.spec import FigureSpec, stored
from co_probe.plots.style import method_style, panels


def draw(frames, onsets):
    """Clean accuracy against epochs."""
    figure, ax = panels()
    rows = frames["metrics"].query("quantity == 'clean'")
    ax.plot(rows["epoch"], rows["value"], label=method_style(rows["method"].iloc[0])["label"])
    ax.legend()
    return figure


SPEC = FigureSpec(tables={"metrics": stored("metrics")}, draw=draw)
