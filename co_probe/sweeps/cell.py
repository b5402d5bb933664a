"""Training of one run of a sweep, as a function that any executor can call on any machine."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from co_probe.config import Config
from co_probe.config.plugins import allow
from co_probe.errors import UserError
from co_probe.files import lock
from co_probe.files.atomic import changing

Files = dict[str, bytes]  # {name: content} of the files of a run


def run_cell(
    settings: Mapping[str, Any],
    out: str,
    device: str = "auto",
    compile: bool = False,
    allowed: Iterable[str] = (),
    marker: str | None = None,
) -> Files | None:
    """Train one run to its end, or resume it.

    Args:
        settings: The settings of the run as plain data.
        out: The folder of the run.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        allowed: Names of user code that the settings may contain (`co_probe.config.plugins`).
        marker: A file that the caller has created beside the runs. If this machine does not see it, the disk is not
            shared: the run is trained in a temporary folder, where another attempt resumes it, and returned.

    Returns:
        The files of the run if it is not in `out`; else None.
    """
    from co_probe.training.loop import epochs

    allow(*allowed)
    shared = marker is None or Path(marker).exists()
    folder = Path(out) if shared else _scratch(f"{marker} {out}")
    if (folder / "run.lock").exists():  # perhaps of a machine that died: wait until it is stale
        with lock.Lock(folder / "run.lock", f"the run {folder}", patience=1.5 * lock.STALE):
            pass
    for _ in epochs(Config.from_dict(settings), folder, resume=True, device=device, compile=compile):
        pass
    if shared:
        return None
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.rmtree(folder)
    return files


def write_returned(files: Files, out: Path) -> None:
    """Write a run that was trained on another disk into its folder, in one atomic step.

    Raises:
        UserError: If the folder exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} has a part of the run, which was trained on another disk: delete it")
    beside = out.with_name(f".{out.name}.partial")
    with changing(out.parent):
        shutil.rmtree(beside, ignore_errors=True)  # a crash left it
        beside.mkdir(parents=True)
        for name, content in files.items():
            (beside / Path(name).name).write_bytes(content)
        beside.rename(out)


def _scratch(key: str) -> Path:
    """Return the path of a temporary folder of this machine that depends on the key alone."""
    return Path(tempfile.gettempdir()) / f"co-probe-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
