"""Everything that may be the reference of a strength measurement."""

import pytest
import torch
from torch import nn

import co_probe
from co_probe.errors import CoProbeWarning, DamagedFile, UserError
from co_probe.runs.checkpoints import export
from co_probe.runs.references import find_reference


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return {"logits": self.fc(x.view(len(x), -1))}


X = torch.rand(3, 1, 8, 8)


def test_an_epoch_of_a_run_equals_its_export(trained, tmp_path):
    run = co_probe.Run(trained / "pgd")
    export(run, 2, tmp_path / "pgd2.pt")
    exported, named = find_reference(tmp_path / "pgd2.pt"), find_reference(f"{trained}/pgd@2")
    torch.testing.assert_close(exported.model(X), named.model(X))
    torch.testing.assert_close(named.model(X), run.load_model(2)(X))
    assert (exported.identity, exported.shape, exported.classes) == (named.identity, named.shape, named.classes)
    assert (exported.name, named.name) == ("pgd2.pt", "pgd@2")
    assert find_reference(f"{trained}/pgd@last").identity == find_reference(f"{trained}/pgd@3").identity
    best = find_reference(f"{trained}/pgd@best").identity
    assert best == find_reference(f"{trained}/pgd@{run.best_epoch}").identity
    assert find_reference(named) is named


def test_a_run_as_its_own_reference_gives_a_warning(runs):
    with pytest.warns(CoProbeWarning, match=r"the reference pgd@2 is an epoch of pgd itself"):
        co_probe.strength([runs / "pgd", runs / "fgsm"], f"{runs}/pgd@2", device="cpu")


def test_the_export_of_an_imported_run_is_read_with_its_model(tmp_path):
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    torch.save(Net().state_dict(), tmp_path / "m.pth")
    options = {"test": (x, y), "epsilon": 0.1, "check": False, "device": "cpu"}
    run = co_probe.import_run(tmp_path / "m.pth", model=Net, normalise=(0.3, 0.2), out=tmp_path / "run", **options)
    export(run, 1, tmp_path / "ref.pt")
    for model in (Net, Net()):
        reference = find_reference(tmp_path / "ref.pt", model=model)
        torch.testing.assert_close(reference.model(X), run.load_model(1)(X))
        assert reference.identity == find_reference(f"{tmp_path}/run@1", model=model).identity
        assert reference.mismatch("other", (3, 8, 8), run.info.classes) and not reference.mismatch(
            "same", (1, 8, 8), run.info.classes
        )
    with pytest.raises(UserError, match="is code that a file names"):
        find_reference(tmp_path / "ref.pt")


def test_epochs_and_runs_that_are_not_there(trained):
    with pytest.raises(UserError, match="has no epoch 9"):
        find_reference(f"{trained}/pgd@9")
    with pytest.raises(UserError, match="is not a run"):
        find_reference(f"{trained}/none@1")
    with pytest.raises(UserError, match="does not exist"):
        find_reference(trained / "none.pt")
    with pytest.raises(UserError, match="not int"):
        find_reference(3)


def test_a_module_is_taken_as_it_is_and_not_changed():
    net = Net().train()
    reference = find_reference(net, normalise=((0.5,), (0.5,)))
    torch.testing.assert_close(reference.model(X), net((X - 0.5) / 0.5)["logits"])
    assert reference.name == "Net" and reference.shape is None and reference.classes is None
    plain = find_reference(net)  # the same weights behind no normalisation are another function
    assert net.training and len({reference.identity, plain.identity, find_reference(Net()).identity}) == 3
    assert plain.identity == find_reference(net).identity


def test_a_checkpoint_of_another_program_needs_its_model(trained, tmp_path):
    net, path = Net(), tmp_path / "theirs.pt"
    torch.save({"net": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    like = co_probe.Run(trained / "pgd").info
    for model in (Net, Net()):
        torch.testing.assert_close(find_reference(path, model=model, like=like).model(X), net(X)["logits"])
    assert find_reference(path, model=Net()).identity == find_reference(net).identity
    with pytest.raises(DamagedFile, match="reference_model"):
        find_reference(path)
    with pytest.raises(UserError, match="built for the images of a run"):
        find_reference(path, model=Net)
    with pytest.raises(UserError, match="does not fit the model"):
        find_reference(path, model=nn.Linear(64, 10))
