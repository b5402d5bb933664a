"""Formatting of tables in Markdown and LaTeX, and of cells that summarise several runs."""

from collections.abc import Callable, Sequence

import numpy as np

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
LATEX |= {"±": r"$\pm$", "×": r"$\times$", "ε": r"$\varepsilon$", "~": r"\textasciitilde{}", "^": r"\^{}"}
LATEX |= {"∞": r"$\infty$", "–": "--"}


def mean_and_spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Format mean ± standard deviation (n − 1) of several values, one value, or an en dash for none.

    Args:
        values: Numbers, one per run.
        show: Function that formats a number.
    """
    if not len(values):
        return "–"
    spread = f" ± {show(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return show(float(np.mean(values))) + spread


def markdown_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in GitHub's Markdown below its title, with the first column left-aligned."""
    lines = [f"{title}\n"]
    for cells in [header, [":--", *["--:"] * (len(header) - 1)], *rows]:
        escaped = (cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {' | '.join(escaped)} |")
    return "\n".join(lines)


def latex_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a `tabular` with booktabs rules and the title as a comment."""
    lines = [
        " & ".join("".join(LATEX.get(letter, letter) for letter in cell) for cell in cells) for cells in [header, *rows]
    ]
    body = "".join(f"{line} \\\\\n" for line in lines[1:])
    return (
        f"% {title}\n\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n{lines[0]} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}"
    )
