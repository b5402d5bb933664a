"""Write `docs/tutorial.ipynb`, the tutorial as a notebook, from `docs/tutorial.md`: `python docs/make_notebook.py`.

Python blocks become code cells, and the text between them Markdown cells. Printed output and pictures are left out:
running the notebook makes them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYTHON = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
# Printed output, pictures and their captions.
MADE = re.compile(r"^```text\n.*?^```\n|^!\[[^\n]*\n|^\*[^*]+\*\n", re.MULTILINE | re.DOTALL)


def render() -> str:
    """Return the notebook as JSON."""
    notebook = {
        "cells": [
            {**cell, "id": f"cell-{number}", "source": cell["source"].splitlines(keepends=True)}
            for number, cell in enumerate(_cells((HERE / "tutorial.md").read_text(encoding="utf-8")), 1)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def _cells(page: str) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(PYTHON.split(page)):  # text and code take turns
        if number % 2:
            yield {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": part.strip()}
        elif text := re.sub(r"\n{3,}", "\n\n", MADE.sub("", part)).strip():
            yield {"cell_type": "markdown", "metadata": {}, "source": text}


if __name__ == "__main__":
    (HERE / "tutorial.ipynb").write_text(render(), encoding="utf-8")
