"""One run of a sweep as a plain function, which any engine can call on any machine."""

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

Files = dict[str, bytes]  # {name: content}, of a run's folder


def run_cell(
    settings: Mapping[str, Any],
    out: str,
    device: str = "auto",
    compile: bool = False,
    allowed: Iterable[str] = (),
    marker: str | None = None,
) -> Files | None:
    """Train one run to its end, or go on with it.

    Args:
        settings: The settings of the run as plain data.
        out: Its folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Run training steps through torch.compile.
        allowed: Names of the user's own code that the settings may have.
        marker: A file that whoever asks has put where the runs go. Where it is not seen, the disk is another one: the
            run is then trained in a temporary folder of this machine, in which a second attempt goes on, and returned.

    Returns:
        The files of the run if they are not in `out`; else None.
    """
    from co_probe.training.loop import epochs

    allow(*allowed)
    shared = marker is None or Path(marker).exists()
    folder = Path(out) if shared else _scratch(f"{marker} {out}")
    if (folder / "run.lock").exists():  # of a machine that died, maybe: then it goes stale, and no sooner
        with lock.Lock(folder / "run.lock", f"the run {folder}", patience=1.5 * lock.STALE):
            pass
    for _ in epochs(Config.from_dict(settings), folder, resume=True, device=device, compile=compile):
        pass
    if shared:
        return None
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.rmtree(folder)
    return files


def receive(files: Files, out: Path) -> None:
    """Put a run that was trained on another disk into its folder, whole or not at all.

    Raises:
        UserError: There is something, or it cannot be written.
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
    """A folder on this machine, the same for the same key."""
    return Path(tempfile.gettempdir()) / f"co-probe-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
