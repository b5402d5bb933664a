"""Files that somebody else made, of every format, however odd: a command ends in one of four ways.

It prints the right result; it refuses the file in one line, exit code 2; training from it diverges, one line, exit code
1; or it passes the run over with a line. There is no traceback, no hang, and no memory out of proportion.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from campaigns import (
    ODD_TEXTS,
    alter,
    arrays,
    campaign,
    check_ending,
    json_values,
    modest_memory,
    patience,
    run_command,
    scalars,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

import co_probe
from co_probe.config.presets import configure
from co_probe.errors import UserError
from co_probe.runs import Run, checkpoints
from co_probe.runs.checkpoints import export
from co_probe.store import StoredRun
from co_probe.store.pack import pack
from co_probe.training.loop import epochs

EXAMPLES = {
    "run.h5": 120,
    "epoch-0002.h5": 120,
    "results.h5": 120,
    "packed": 50,
    "going on": 40,
    "exported": 60,
    "foreign": 40,
}
TEXTS = 60  # for each format of text

pytestmark = pytest.mark.slow


def is_valid(path: Path) -> bool:
    """Whether everything in a run can be read."""
    try:
        with patience():
            run = StoredRun(path)
            run.read_main()
            for epoch in run.epochs:
                run.read_epoch(epoch)
    except UserError:
        return False
    return True


# -- runs ------------------------------------------------------------------------------------------------------------

MEASURE = ["--device", "cpu"]
COMMANDS: dict[str, list[str]] = {
    "show": ["show"],
    "show as JSON": ["show", "--json"],
    "diagnose": ["diagnose", "--quick"],
    "gap": ["gap", *MEASURE],
    "gap of the method": ["gap", "--against", "pgd1", "--generator", "method", "--split", "train", *MEASURE],
    "alignment": ["probe", "alignment", *MEASURE],
    "eval": ["eval", "--attacks", "clean", *MEASURE],
    "plot": ["plot", "gap", "-o", "x.png", *MEASURE],
    "steps": ["plot", "steps", "-o", "x.png"],
    "export": ["export", "-o", "x.pt"],
    "pack": ["pack", "-o", "x.h5"],
}
READS_ALL = ("pack",)


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory) -> Path:
    """A folder with a run, packed too, its exported model and a checkpoint: read it, do not write to it."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(trained / "apart", folder / "run")
    co_probe.gap(folder / "run", "pgd1", device="cpu")
    co_probe.probe("alignment", folder / "run", device="cpu")
    pack(folder / "run", folder / "packed.h5")
    export(Run(folder / "run"), 3, folder / "model.pt")
    torch.save({"state_dict": Run(folder / "run").load_model(3).state_dict(), "epoch": 3}, folder / "theirs.pth")
    shutil.copytree(trained / "fgsm", folder / "other")
    return folder


@pytest.fixture(scope="module")
def expected(made: Path, tmp_path_factory) -> dict[str, str]:
    """What each command prints of the run as it is."""
    outputs, patch = {}, pytest.MonkeyPatch()
    for name, command in COMMANDS.items():
        patch.chdir(tmp_path_factory.mktemp("expected"))
        shutil.copytree(made / "run", "run")
        code, outputs[name], err = run_command(*command, "run")
        assert code == 0, err
    patch.undo()
    return outputs


@pytest.fixture
def at(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with modest_memory():
        yield tmp_path


def fresh(made: Path, at: Path) -> None:
    """Leave in the working directory a copy of `made` and nothing else."""
    for path in at.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("run", "other"):
        shutil.copytree(made / name, at / name)


def run_campaign(file: str, made: Path, expected: dict[str, str], at: Path) -> None:
    endings = set()

    @campaign(EXAMPLES[file])
    @given(st.data())
    def one(data: Any) -> None:
        fresh(made, at)
        alter(data, at / "run" / file)
        valid = is_valid(Path("run"))
        name = data.draw(st.sampled_from(sorted(COMMANDS)), "command")
        beside = ["other"] if name not in ("export", "pack", "steps") and data.draw(st.booleans(), "beside") else []
        code, out, err = run_command(*COMMANDS[name], "run", *beside)
        ending = check_ending(code, out, err)
        endings.add(ending)
        if not valid and ending == "result" and not beside:
            # What is damaged has no part in it, so that it is what it was.
            assert name not in READS_ALL and out == expected[name], out

    one()
    assert {"result", "refused", "skipped"} <= endings


@pytest.mark.parametrize("file", ["run.h5", "epoch-0002.h5", "results.h5"])
def test_runs(file, made, expected, at):
    run_campaign(file, made, expected, at)


def test_packed_runs(made, at):
    @campaign(EXAMPLES["packed"])
    @given(st.data())
    def one(data: Any) -> None:
        fresh(made, at)
        shutil.copy(made / "packed.h5", "packed.h5")
        alter(data, at / "packed.h5")
        name = data.draw(st.sampled_from(sorted(COMMANDS)), "command")
        ending = check_ending(*run_command(*COMMANDS[name], "packed.h5"))
        assert ending == "refused" or name != "pack" or is_valid(Path("packed.h5"))

    one()


def test_going_on(at):
    """With the files of the newest epoch, which training reads."""
    command = ["run", "apart", "--preset", "tiny.toml", "--out", "run", "--resume", "--device", "cpu"]

    @campaign(EXAMPLES["going on"])
    @given(st.data())
    def one(data: Any) -> None:
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(begun, "run")
        alter(data, at / "run" / data.draw(st.sampled_from(["resume-0001.h5", "epoch-0001.h5", "run.h5"]), "file"))
        ending = check_ending(*run_command(*command))
        assert not list(Path("run").glob("*.lock"))
        if ending == "result":  # what training does not read of the first epoch is as damaged as before
            assert StoredRun("run").epochs == [1, 2] and StoredRun("run").read_epoch(2)

    tiny = ['extends = "digits"', "epochs = 2", "batch_size = 512", "epsilon = 0.14", "epsilon_warmup = 0"]
    tiny += ["[probe]", "test = 20", "train = 10", "[model]", 'name = "preact_resnet"', "width = 8"]
    tiny += ["[data]", 'name = "digits"', "size = 8"]
    Path("tiny.toml").write_text("\n".join(tiny))
    begun = at / "begun"
    training = epochs(configure("tiny.toml", "apart"), begun, device="cpu")
    next(training)
    training.close()
    one()


def test_exported_files(made, at):
    @campaign(EXAMPLES["exported"])
    @given(st.data())
    def one(data: Any) -> None:
        content = torch.load(made / "model.pt", weights_only=True)
        content.pop("checksum")
        part = data.draw(st.sampled_from(["a weight", *sorted(content)]), "part")
        odd = [scalars.filter(lambda value: not isinstance(value, complex)), arrays().map(tensor)]
        if part == "a weight":
            name = data.draw(st.sampled_from(sorted(content["weights"])), "name")
            content["weights"] = content["weights"] | {name: data.draw(st.one_of(odd), "value")}
        else:
            plain = [json_values(content[part])] if part != "weights" else []
            content[part] = data.draw(st.one_of([*plain, *odd]), "value")
        try:
            checksum = checkpoints._checksum(content)
        except Exception:
            checksum = ""
        torch.save(content | {"checksum": checksum}, "x.pt")
        check_ending(*run_command("strength", "--reference", "x.pt", "run", *MEASURE, "--results", "results"))

    fresh(made, at)
    one()


def test_checkpoints_of_other_programs(made, at):
    @campaign(EXAMPLES["foreign"])
    @given(st.data())
    def one(data: Any) -> None:
        content = torch.load(made / "theirs.pth", weights_only=True)
        weights = dict(content["state_dict"])
        name = data.draw(st.sampled_from(sorted(weights)), "name")
        odd = [scalars.filter(lambda value: not isinstance(value, complex)), arrays().map(tensor)]
        weights[name] = data.draw(st.one_of(*odd), "value")
        wrapper = data.draw(st.sampled_from(["state_dict", "model", "net", "else"]), "wrapper")
        torch.save({wrapper: weights}, "x.pth")
        shutil.rmtree("imported", ignore_errors=True)
        arguments = ["--model", "preact_resnet", "--set", "width=8", "--data", "digits", "--epsilon", "0.1"]
        arguments += ["--images", "20", "--no-check", "--out", "imported", *MEASURE]
        if check_ending(*run_command("import", "x.pth", *arguments)) == "result":
            assert is_valid(Path("imported"))

    one()


# -- text ------------------------------------------------------------------------------------------------------------

LINES = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20).map(lambda content: content.decode("utf-8", "surrogateescape")),
    st.sampled_from(
        ["[model]", "epochs = nan", "epsilon = 1e400", "a = " + "[" * 3000, "seed = 1979-05-27", "x" * 3000]
    ),
)


def mixed(data: Any, good: list[str]) -> bytes:
    """Some of the lines, with others between them."""
    lines = data.draw(st.lists(st.one_of(st.sampled_from(good), LINES), max_size=8), "lines")
    return "\n".join([*good[: data.draw(st.integers(0, len(good)), "kept")], *lines]).encode("utf-8", "surrogateescape")


READ_PRESETS = [
    ["preset", "show", "x.toml"],
    ["run", "fgms", "--preset", "x.toml"],  # no such method, so that nothing is trained
    ["sweep", "x.toml", "--dry-run"],
]
PRESET = ['extends = "digits"', "epochs = 1", "batch_size = 1024", "[model]", "width = 8", "[data]", "size = 8"]
LOG = ["epoch,train_loss,train_acc,clean,pgd10", "1,2.0,0.3,0.4,0.3", "2,1.0,50%,0.5,0.4", "3,nan,,0.9,0.0"]


def test_presets(at):
    @campaign(TEXTS)
    @given(st.data())
    def one(data: Any) -> None:
        Path("x.toml").write_bytes(mixed(data, PRESET))
        command = data.draw(st.sampled_from(READ_PRESETS), "command")
        code, out, err = run_command(*command)
        shown = "" if "show" in command else out  # the file itself, where a number may be nan
        assert check_ending(code, shown, err) in ("result", "refused")

    one()


def test_logs(at):
    @campaign(TEXTS)
    @given(st.data())
    def one(data: Any) -> None:
        Path("x.csv").write_bytes(mixed(data, LOG))
        check_ending(*run_command("diagnose", "x.csv"))

    one()


def test_locks(made, at):
    @campaign(TEXTS)
    @given(st.data())
    def one(data: Any) -> None:
        owner = json_values({"pid": 1234, "host": "elsewhere"}).map(json.dumps)
        text = data.draw(st.one_of(owner, LINES, st.sampled_from(ODD_TEXTS)), "content")
        Path("run/results.lock").write_bytes(text.encode("utf-8", "surrogateescape"))
        check_ending(*run_command("gap", "run", "--against", "pgd1", *MEASURE))

    fresh(made, at)
    one()
