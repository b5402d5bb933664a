"""The pictures of the tutorial: runs the Python blocks of docs/tutorial.md.

    python analyses/tutorial.py        a minute or two on one core; pictures go to figures/tutorial/

Prints what the blocks print, which the page quotes. Runs and checkpoints go to a temporary folder.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

import matplotlib

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    matplotlib.use("Agg")
    out = ROOT / "figures" / "tutorial"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        names: dict[str, object] = {}
        for block in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
            exec(block, names)
        for picture in Path().glob("*.png"):
            shutil.copy(picture, out / picture.name)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
