"""Packing a run into one self-contained file."""

from pathlib import Path

from co_probe.errors import UserError
from co_probe.files.atomic import replace_atomic
from co_probe.store import tree
from co_probe.store.stored_run import StoredRun


def pack(run: StoredRun | str | Path, out: str | Path) -> None:
    """Write a run (settings, epochs, results; not resume state) into one HDF5 file.

    Args:
        run: The run, or the path of its folder.
        out: File to write, whose name ends in `.h5`.

    Raises:
        UserError: `out` is the run itself or cannot be written.
        DamagedFile: A part of the run does not verify.

    Example:
        >>> co_probe.pack("runs/fgsm", "fgsm.h5")
    """
    run, out = run if isinstance(run, StoredRun) else StoredRun(run), Path(out)
    if out.suffix != ".h5" and not out.is_dir():
        raise UserError(f"the name {out.name} must end in .h5: that is how other commands know a packed run")
    if out.exists() and out.samefile(run.path):
        raise UserError(f"{out} is the run itself: choose another file")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist")

    def write(beside: Path) -> None:
        with tree.created(beside) as (file, sink):
            tree.fill(file, run.read_main())
            epochs = file.create_group("epochs")
            for epoch in run.epochs:  # one at a time, since a run may exceed memory
                tree.fill(epochs.create_group(f"{epoch:04d}"), run.read_epoch(epoch))
                if sink.error:
                    break

    replace_atomic(out, write)
