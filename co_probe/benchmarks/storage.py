"""What it costs to write an epoch to the disk, and to read it back."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from co_probe.benchmarks.subject import Subject, Trainee
from co_probe.benchmarks.turns import Row, exact, spread, take_turns
from co_probe.errors import UserError
from co_probe.runs.build import describe
from co_probe.store import RunWriter, StoredRun
from co_probe.store.stored_run import epoch_file
from co_probe.training.state import copying_stream, draw_indices, environment, momenta, snapshot


def storage(subject: Subject) -> list[Row]:
    """Writing an epoch of each method (APART, if none is asked for) as training does, and reading its weights back.

    `hold_seconds`: for how long training is held up, while copies are made on the device; `write_seconds` and
    `write_mb_per_second`: from there to all files flushed to the disk (`RunWriter.commit`, which a run does while the
    next epoch trains), with what resuming needs (momenta, the method's state); `read_seconds`, `read_mb_per_second`:
    of `StoredRun.weights`, checksums verified, from a file that was just written and so is in memory. `epoch_mb` and
    `resume_mb`: the sizes of the files; `over_parameters`: by how much the epoch's file is larger than the network's
    parameters (not its buffers), as a share of their bytes; `share_of_epoch`: `hold_seconds` and `write_seconds` over a
    whole epoch of training steps and these, so as if nothing were done meanwhile: no run is slowed down by more.
    The files are made in a folder of their own in `folder`, and deleted. Raises UserError if they cannot be.
    """
    rows: list[Row] = []
    for name in subject.methods(["apart"]):
        try:
            with tempfile.TemporaryDirectory(prefix=".co-probe-bench-", dir=subject.folder) as folder:
                rows += _of_method(subject, name, Path(folder) / name)
        except OSError as error:
            raise UserError(f"cannot write to the folder {subject.folder}: {error.strerror}") from error
    return rows


def _of_method(subject: Subject, name: str, out: Path) -> list[Row]:
    trainee, count, config = Trainee(subject, name), len(subject.data.train_y), subject.config(name)
    trainee.step()
    kept = torch.from_numpy(draw_indices(count, config.probe.train, config.seed, "probe train"))
    epoch, stream = 0, copying_stream(subject.device)
    sizes: dict[str, int] = {}
    held: dict[str, Any] = {}

    def hold() -> None:
        state = trainee.method.image_state(kept.to(subject.device))
        held["checkpoint"] = {
            "model": snapshot(trainee.model.state_dict(), stream),
            "metrics": dict.fromkeys(("train_loss", "train_accuracy", "clean", "fgsm", "pgd10", "own", "gap"), 0.5),
            "method": trainee.method.parameters(),
            "images": snapshot({} if state is None else {"state": state}, stream),
        }
        going_on = {"momentum": momenta(trainee.model, trainee.optimizer), "method": trainee.method.state_dict()}
        held["resume"] = {part: snapshot(state, stream) for part, state in going_on.items()}

    info = describe(config, subject.data, subject.precision)
    with RunWriter(out, info, {}, environment(subject.device, subject.precision)) as writer:

        def write() -> None:
            nonlocal epoch
            epoch += 1
            writer.commit(epoch, **held)

        def read() -> None:
            StoredRun(out).weights(epoch)
            (out / epoch_file(epoch - 1)).unlink(missing_ok=True)  # so that the disk holds two epochs, not all

        hold()
        write()  # so that each finds what it needs, whoever begins
        actions = {"hold": hold, "write": write, "read": read, "step": trainee.step}
        times = take_turns(actions, subject.repeats, subject.device, subject.report(f"storage, {name}"))
        weights = sum(array.nbytes for array in StoredRun(out).weights(epoch).values())
        sizes = {file.name.partition("-")[0]: file.stat().st_size for file in sorted(out.glob("*-*.h5"))}
    over = sizes["epoch"] / sum(p.nbytes for p in trainee.model.parameters()) - 1
    steps = -(-count // config.batch_size) * trainee.method.replays
    written, added = sum(sizes.values()), times["hold"] + times["write"]
    return [
        spread(name, "hold_seconds", times["hold"]),
        spread(name, "write_seconds", times["write"]),
        spread(name, "write_mb_per_second", written / times["write"] / 1e6),
        spread(name, "read_seconds", times["read"]),
        spread(name, "read_mb_per_second", weights / times["read"] / 1e6),
        *exact(name, epoch_mb=sizes["epoch"] / 1e6, resume_mb=sizes["resume"] / 1e6, over_parameters=over),
        spread(name, "share_of_epoch", added / (added + steps * times["step"])),
    ]
