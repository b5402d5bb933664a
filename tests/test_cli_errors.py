"""What a user gets wrong is answered in one line, with exit code 2 and without a traceback."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from co_probe.errors import DamagedFile
from co_probe.runs import Run, checkpoints
from co_probe.runs.checkpoints import export, load_reference

SMALL = [
    "--epochs",
    "1",
    "--set",
    "batch_size=512",
    "--set",
    "probe.test=10",
    "--set",
    "data.size=8",
    "--device",
    "cpu",
]


@pytest.fixture
def at(runs: Path, monkeypatch) -> Path:
    """A folder to be in, with the finished runs of four methods in `runs/` and a reference made of one of them."""
    monkeypatch.chdir(runs.parent)
    export(Run(runs / "pgd"), 3, "reference.pt")
    return runs.parent


@pytest.fixture
def refused(call):
    """The one line that refuses a command."""

    def refused(*arguments: str | Path) -> str:
        code, _, err = call(*arguments)
        lines = err.rstrip("\n").split("\n")
        if lines[0].startswith("Usage: "):  # where click itself refuses
            lines = lines[lines.index("") + 1 :]
        assert len(lines) == 1 and lines[0].startswith("Error: "), err
        assert code == 2
        return lines[0].removeprefix("Error: ")

    return refused


def changed(path: Path, changes: dict) -> dict:
    """What an exported file holds, made anew with changes, and with the checksum of those."""
    content = torch.load(path, weights_only=True)
    content.pop("checksum")
    content |= changes
    tensors = isinstance(content["weights"], dict) and all(map(torch.is_tensor, content["weights"].values()))
    return {**content, "checksum": checkpoints._checksum(content) if tensors else ""}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- names and numbers -----------------------------------------------------------------------------------------------

TRAIN = ["run", "fgsm", "--out", "new", *SMALL]

REFUSED = {
    "unknown method": (["run", "fgms", *SMALL], "unknown method 'fgms': did you mean fgsm"),
    "nothing like it": (["run", "xyz", *SMALL], "unknown method 'xyz': there are: aaer, apart"),
    "unknown preset": (["run", "fgsm", "--preset", "digit"], "unknown preset 'digit': did you mean digits?"),
    "missing preset": (["run", "fgsm", "--preset", "no.toml"], "preset file no.toml: No such file or directory"),
    "unknown figure": (["plot", "gaps"], "unknown figure 'gaps': did you mean gap?"),
    "epsilon 0": ([*TRAIN, "--epsilon", "0"], "epsilon must be greater than 0, not 0"),
    "negative": ([*TRAIN, "--epsilon", "-8/255"], "epsilon must be greater than 0, not -0.0313"),
    "no number": ([*TRAIN, "--epsilon", "abc"], "'abc' is not a number: give it as 0.031 or 8/255"),
    "8 over 0": ([*TRAIN, "--epsilon", "8/0"], "'8/0' is not a number"),
    "not finite": ([*TRAIN, "--epsilon", "nan"], "epsilon must be a number, not nan"),
    "8 pixels": ([*TRAIN, "--epsilon", "8"], "8 is more than 1: did you mean 8/255?"),
    "no epochs": (["run", "fgsm", "--epochs", "0"], "epochs must be greater than 0, not 0"),
    "seed": ([*TRAIN, "--seed", "-1"], "seed must not be negative"),
    "both": ([*TRAIN, "--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    "missing option": (["export", "runs/fgsm"], "Missing option '-o' / '--out'"),
    "missing argument": (["run"], "Missing argument 'METHOD'"),
    "unknown option": (["run", "fgsm", "--epoch", "3"], "No such option"),
    "a setting as an option": (
        ["run", "fgsm", "--lr", "0.1"],
        "No such option '--lr': say --set optimizer.learning_rate=VALUE.",
    ),
    "a section as an option": (["run", "fgsm", "--model", "x"], "'--model': say --set model.name=VALUE."),
    "an epoch of a run": (
        ["eval", "runs/fgsm@9"],
        "runs/fgsm@9 names an epoch of a run: name the run, runs/fgsm, with --epoch 9 in eval and export",
    ),
    "unknown command": (["diagnos"], "unknown command 'diagnos': did you mean diagnose?"),
    "split": (["gap", "--split", "foo"], "'foo' is not one of 'test', 'train'"),
    "against": (["gap", "--against", "foo"], "unknown attack 'foo'"),
    "against nothing": (["gap", "--against", "pgd0"], "unknown attack 'pgd0'"),
    "generator": (["gap", "--generator", "foo"], "unknown attack 'foo'"),
    "device": ([*TRAIN[:-1], "toaster"], "device toaster cannot be used"),
    "unreal device": ([*TRAIN[:-1], "meta"], "device meta cannot be used"),
    # settings
    "key": ([*TRAIN, "--set", "epoch=3"], "unknown setting 'epoch': did you mean epochs"),
    "inner key": ([*TRAIN, "--set", "optimizer.momentun=1"], "in optimizer 'momentun': did you mean momentum?"),
    "model key": ([*TRAIN, "--set", "model.wdth=8"], "of model preact_resnet 'wdth': did you mean width?"),
    "method key": ([*TRAIN, "--set", "method.steps=8"], "unknown setting of method fgsm 'steps'"),
    "no value": ([*TRAIN, "--set", "model.width"], "a setting is given as key=value"),
    "no key": ([*TRAIN, "--set", "=3"], "a setting is given as key=value"),
    "text": ([*TRAIN, "--set", "epochs=many"], "epochs must be a whole number, not 'many'"),
    "fraction": ([*TRAIN, "--set", "batch_size=2.5"], "batch_size must be a whole number, not 2.5"),
    "truth": ([*TRAIN, "--set", "augmentation.flip=yes"], "augmentation.flip must be true or false, not 'yes'"),
    "list": ([*TRAIN, "--set", "epsilon=[1]"], "'[1]' is not a number"),
    "width": ([*TRAIN, "--set", "model.width=wide"], "model preact_resnet: width must be a whole number, not 'wide'"),
    "blocks": ([*TRAIN, "--set", "model.blocks=[1, 2.5]"], "blocks must be a list, each of it a whole number"),
    "flag": ([*TRAIN, "--set", "model.width=true"], "width must be a whole number, not True"),
    "steps": (["run", "pgd", "--set", "method.steps=2.5", *SMALL], "method pgd: steps must be a whole number"),
    "size": ([*TRAIN, "--set", "data.size=7"], "data set digits: size must be at least 8, not 7"),
    "section": ([*TRAIN, "--set", "probe=5"], "probe is a section of settings, not one value"),
    "part": ([*TRAIN, "--set", "model=5"], "model must have a name, as text, not 5"),
    "name": ([*TRAIN, "--set", "model.name=preact_resent"], "unknown model 'preact_resent': did you mean preact"),
    "rate": ([*TRAIN, "--set", "optimizer.learning_rate=-1"], "optimizer.learning_rate must not be negative"),
    "schedule": ([*TRAIN, "--set", "schedule.peak=2"], "schedule triangular: peak must be between 0 and 1"),
    # runs, epochs, files
    "no run": (["show", "runs"], "runs is a folder of runs: name one or more of them, such as runs"),
    "nowhere": (["export", "runs/fgms", "-o", "x.pt"], "runs/fgms is not a run: it does not exist"),
    "text as run": (["show", "notes.txt"], "notes.txt is not a run: it is a file of another kind"),
    "no runs": (["show", "--runs", "empty"], "no runs in empty/: name one, or make one with: co-probe run fgsm"),
    "no such runs": (["gap", "--runs", "nowhere"], "no runs in nowhere/"),
    "epoch 4": (["export", "runs/fgsm", "--epoch", "4", "-o", "x.pt"], "fgsm has no epoch 4; finished epochs: 1 to 3"),
    "epoch 0": (["export", "runs/fgsm", "--epoch", "0", "-o", "x.pt"], "fgsm has no epoch 0"),
    "epoch words": (["eval", "runs/fgsm", "--epoch", "worst", "--attacks", "clean"], "worst"),
    "eval attack": (["eval", "runs/fgsm", "--attacks", "clean,foo"], "unknown attack 'foo'"),
    "export folder": (["export", "runs/fgsm", "-o", "no/x.pt"], "the folder no does not exist"),
    "export to folder": (["export", "runs/fgsm", "-o", "runs"], "runs is a folder: give the name of a file"),
    "pack to folder": (["pack", "runs/fgsm", "-o", "."], ". is a folder: give the name of a file"),
    "pack folder": (["pack", "runs/fgsm", "-o", "no/x.h5"], "the folder no does not exist"),
    "there already": (
        ["run", "fgsm"],
        "runs/fgsm is a run already: --resume continues it, --overwrite deletes it first",
    ),
    "not ours": ([*TRAIN[:3], "full", *SMALL], "full is not a run and not empty (it has thesis.tex)"),
    "file in place": ([*TRAIN[:3], "notes.txt", *SMALL], "cannot write to the folder notes.txt: File exists"),
    "below a file": ([*TRAIN[:3], "notes.txt/x", *SMALL], "cannot write to the folder notes.txt/x: Not a directory"),
    # figures
    "format": (["plot", "gap", "-o", "gap.xyz"], "cannot draw 'gap.xyz': the name must end in one of"),
    "no format": (["plot", "gap", "-o", "gap"], "cannot draw 'gap'"),
    "figure folder": (["plot", "gap", "-o", "no/gap.png"], "the folder no does not exist"),
    "unmeasured": (
        ["plot", "deterioration", "runs/fgsm"],
        "fgsm has no stored strength: measure it first with strength",
    ),
    "no steps": (["plot", "steps", "runs/fgsm"], "fgsm learns no step sizes"),
    # references
    "no reference": (["strength", "--reference", "no.pt"], "no.pt does not exist; export an epoch of a run"),
    "text as .pt": (["strength", "--reference", "notes.txt"], "notes.txt"),
    "folder as .pt": (["strength", "--reference", "runs"], "runs is a folder; a reference is an epoch of a run"),
    "other .pt": (
        ["strength", "--reference", "tensor.pt"],
        "tensor.pt is a .pt file, but not one that co-probe",
    ),
    "other shapes": (["strength", "--reference", "large.pt", "runs/fgsm"], "takes images of shape (1, 16, 16)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_line(case, at, refused):
    (at / "notes.txt").write_text("not HDF5, and not a .pt file either\n")
    (at / "empty").mkdir()
    (at / "full").mkdir()
    (at / "full" / "thesis.tex").write_text("years of work")
    torch.save(torch.zeros(3), at / "tensor.pt")
    if "large.pt" in REFUSED[case][0]:
        torch.save(changed(at / "reference.pt", {"shape": [1, 16, 16]}), at / "large.pt")
    before = tree(at)
    arguments, words = REFUSED[case]
    assert words in refused(*arguments)
    assert tree(at) == before


def test_runs_that_a_reference_does_not_fit_are_named(at, call):
    torch.save(changed(at / "reference.pt", {"shape": [1, 16, 16]}), at / "large.pt")
    code, _, err = call("strength", "--reference", "large.pt")
    lines = err.rstrip("\n").split("\n")
    assert code == 2 and lines[-1] == "Error: none of the runs can be used"
    assert len(lines) == 5 and all("images of shape (1, 16, 16)" in line for line in lines[:-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(device, at, refused):
    assert f"device {device} cannot be used" in refused(*TRAIN[:-1], device)
    assert f"device {device} cannot be used" in refused("gap", "runs/fgsm", "--against", "pgd2", "--device", device)
    assert not (at / "new").exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("epsilon = ", "is no valid TOML"),
        ("epsilon = 0.1\nepochs = 2", "settings are missing: data, model"),
        ("colour = 'red'", "unknown setting 'colour'"),
        ("methods = 5", "methods.fgsm is a section of settings"),
        ("[methods]\nfgsm = 5", "methods.fgsm is a section of settings"),
        ("epsilon = 'small'\nepochs = 2\nmodel = 'preact_resnet'\ndata = 'digits'", "'small' is not a number"),
    ],
)
def test_a_broken_preset(toml, words, at, refused):
    (at / "mine.toml").write_text(toml)
    assert words in refused("run", "fgsm", "--preset", "mine.toml", "--out", "new")
    assert not (at / "new").exists()


def test_a_preset_that_is_not_text(at, refused):
    (at / "mine.toml").write_bytes(b"\xff\xfe\x00")
    assert "mine.toml" in refused("run", "fgsm", "--preset", "mine.toml")
    (at / "folder.toml").mkdir()
    assert "folder.toml" in refused("run", "fgsm", "--preset", "folder.toml")


def test_settings_that_cannot_be_used_do_not_cost_the_run_that_is_there(at, refused):
    before = tree(at / "runs")
    for bad in ("model.wdth=3", "model.blocks=[]", "schedule.peak=7", "method.batchnorm=none", "data.name=digit"):
        refused("run", "fgsm", "--overwrite", "--set", bad, *SMALL)
        assert tree(at / "runs") == before


def test_damage_is_named_with_its_file(at, refused):
    path = at / "runs" / "fgsm" / "epoch-0002.h5"
    path.write_bytes(path.read_bytes()[:-100])
    for command in (["show", "runs/fgsm"], ["pack", "runs/fgsm", "-o", "x.h5"], ["export", "runs/fgsm", "-o", "x.pt"]):
        epoch = ["--epoch", "2"] if command[0] == "export" else []
        assert "runs/fgsm/epoch-0002.h5 is damaged" in refused(*command, *epoch)


# -- .pt files -------------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it runs code."""

    def __reduce__(self):
        return (Path("trapped").touch, ())


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_the_code_in_a_pt_file_does_not_run(write, at, refused):
    write({"format": "co-probe model", "weights": Trap()}, at / "evil.pt")
    assert "evil.pt holds more than tensors, numbers and strings" in refused("strength", "--reference", "evil.pt")
    assert not (at / "trapped").exists()
    pickle.loads(pickle.dumps(Trap()))  # and it would have run
    assert (at / "trapped").exists()


def test_a_damaged_pt_file_is_a_clear_error_or_reads_the_same(at):
    path, good, rng = at / "reference.pt", (at / "reference.pt").read_bytes(), np.random.default_rng(0)
    identity = load_reference(path).identity
    damaged = [good[: int(n)] for n in (0, 1, len(good) - 1, *rng.integers(len(good), size=25))]
    for _ in range(75):
        altered = bytearray(good)
        altered[int(rng.integers(len(good)))] ^= int(rng.integers(1, 256))
        damaged.append(bytes(altered))
    noticed = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            assert load_reference(path).identity == identity
        except DamagedFile as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed > 50


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {}},
        {"weights": 5},
        {"weights": {"conv1.weight": "text"}},
        {"model": {"name": "no_such_model"}},
        {"model": {"name": 5}},
        {"model": {"name": "preact_resnet", "width": 12}},
        {"model": {"name": "preact_resnet", "width": "wide"}},
        {"shape": [1, 8]},
        {"shape": "abc"},
        {"shape": [1, "8", 8]},
        {"classes": 5},
        {"classes": []},
        {"format": "something else"},
    ],
)
def test_a_pt_file_of_another_making(change, at, refused):
    torch.save(changed(at / "reference.pt", change), at / "other.pt")
    assert refused("strength", "--reference", "other.pt", "runs/fgsm", "--device", "cpu")


def test_a_pt_file_saved_on_a_gpu_opens_on_a_cpu(at, monkeypatch):
    content = torch.load(at / "reference.pt", weights_only=True)
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(content, at / "gpu.pt")
    assert b"cuda:0" in (at / "gpu.pt").read_bytes()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(at / "gpu.pt", weights_only=True)
    reference = load_reference(at / "gpu.pt")
    assert next(reference.model.parameters()).device.type == "cpu"
    assert reference.identity == load_reference(at / "reference.pt").identity


# -- all commands take what they should ------------------------------------------------------------------------------


def test_a_packed_run_is_taken_wherever_a_run_is(at, call):
    shutil.rmtree(at / "runs" / "apart-simple")
    (at / "sent").mkdir()
    assert call("pack", "runs/apart", "-o", "sent/apart.h5")[0] == 0
    before = (at / "sent" / "apart.h5").read_bytes()
    for command in (
        ["show", "sent/apart.h5"],
        ["show", "--runs", "sent"],
        ["export", "sent/apart.h5", "--epoch", "2", "-o", "sent/two.pt"],
        ["strength", "--reference", "reference.pt", "--runs", "sent", "--device", "cpu"],
        ["gap", "sent/apart.h5", "--device", "cpu"],
        ["gap", "sent/apart.h5", "--split", "train", "--device", "cpu"],
        ["plot", "deterioration", "--runs", "sent", "-o", "sent/d.png"],
        ["plot", "steps", "sent/apart.h5", "-o", "sent/s.png"],
        ["pack", "sent/apart.h5", "-o", "sent/again.h5"],
    ):
        code, _, err = call(*command)
        assert code == 0, err
    assert (at / "sent" / "apart.h5").read_bytes() == before
    ours, sent = (call("gap", run, "--csv", "--device", "cpu")[1] for run in ("runs/apart", "sent/apart.h5"))
    assert ours == sent and ours.count("\n") > 3
    assert sorted(p.name for p in (at / "sent").iterdir()) == [
        *("again.h5", "apart.h5", "apart.results.h5", "d.png", "s.png", "two.pt")
    ]


# -- as a process ----------------------------------------------------------------------------------------------------


def process(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", code] if code else ["-m", "co_probe"]
    return subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, env=os.environ)


def test_a_process_prints_the_line_and_exits_with_2(tmp_path):
    result = process("show", str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"Error: {tmp_path} is not a run: it has no run.h5\n"


def test_debug_shows_the_traceback(tmp_path):
    result = process("--debug", "show", str(tmp_path))
    assert result.returncode != 0
    assert result.stderr.startswith("Traceback") and "is not a run: it has no run.h5" in result.stderr


@pytest.mark.parametrize("arguments", ["--version", "--help", "run --help", "plot --help", "eval -h"])
def test_help_and_version_do_not_wait_for_torch(arguments):
    code = (
        "import sys\nfrom co_probe.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as exit:\n    assert exit.code == 0\n"
        "print([name for name in ('torch', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    result = process(*arguments.split(), code=code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("[]\n")


def test_missing_epoch_files_are_named(at, call):
    (at / "runs/fgsm/epoch-0002.h5").unlink()
    code, out, _ = call("show", "runs/fgsm")
    assert code == 0 and "epochs whose files are missing: 2" in out
