"""Which files a user means, and the epochs that they belong to."""

import pytest

from co_probe.errors import UserError
from co_probe.runs.checkpoint_files import find_checkpoints


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_of(found):
    return {epoch: path.name for epoch, path in found.paths.items()}


def test_a_pattern_gives_epochs_in_numeric_order(tmp_path):
    touch(tmp_path, "model_epoch_1.pth", "model_epoch_2.pth", "model_epoch_10.pth", "model_best.pth", "opt_epoch_1.pth")
    found = find_checkpoints(tmp_path / "model_epoch_{epoch}.pth")
    assert names_of(found) == {1: "model_epoch_1.pth", 2: "model_epoch_2.pth", 10: "model_epoch_10.pth"}
    assert list(found.paths) == [1, 2, 10] and not found.note


@pytest.mark.parametrize(
    "pattern, name",
    [
        ("e{epoch:03d}.pth", "e007.pth"),
        ("{epoch}/model.pth", "7/model.pth"),
        ("m[1]_{epoch}_acc*.pth", "m[1]_7_acc0.8.pth"),
    ],
)
def test_patterns_with_formats_folders_brackets_and_wildcards(tmp_path, pattern, name):
    touch(tmp_path, name)
    assert find_checkpoints(f"{tmp_path}/{pattern}").paths == {7: tmp_path / name}


def test_epochs_from_0_are_shifted_with_a_message(tmp_path):
    touch(tmp_path, "m_0.pt", "m_1.pt")
    found = find_checkpoints(tmp_path / "m_{epoch}.pt")
    assert names_of(found) == {1: "m_0.pt", 2: "m_1.pt"}
    assert "m_0.pt is epoch 1" in found.note


def test_a_list_as_a_shell_sorts_it_has_the_epochs_of_its_names(tmp_path):
    files = [tmp_path / f"eps8_ep{n}.pth" for n in (1, 10, 2)]
    touch(tmp_path, *(file.name for file in files))
    assert names_of(find_checkpoints(files)) == {1: "eps8_ep1.pth", 2: "eps8_ep2.pth", 10: "eps8_ep10.pth"}
    assert find_checkpoints(f"{tmp_path}/*.pth").paths == find_checkpoints(files).paths


def test_a_list_of_other_names_has_epochs_in_its_order(tmp_path):
    touch(tmp_path, "last.pt", "first.pt")
    found = find_checkpoints([tmp_path / "first.pt", tmp_path / "last.pt"])
    assert names_of(found) == {1: "first.pt", 2: "last.pt"}
    assert "order" in found.note


@pytest.mark.parametrize("name, epoch", [("model.pth", 1), ("resnet18_eps8.pth", 1), ("run_epoch-30.pth", 30)])
def test_one_file(tmp_path, name, epoch):
    touch(tmp_path, name)
    assert find_checkpoints(tmp_path / name).paths == {epoch: tmp_path / name}


def test_unknown_names_are_answered_with_known_ones(tmp_path):
    touch(tmp_path, "model_epoch_1.pth", "model_epoch_2.pth")
    for wrong in ("model_{epoch}.pth", "nothing.pth", "*.ckpt", ""):
        with pytest.raises(UserError, match=r"did you mean .*model_epoch_\{epoch\}\.pth\?"):
            find_checkpoints(f"{tmp_path}/{wrong}")
    with pytest.raises(UserError, match="there is no folder"):
        find_checkpoints(tmp_path / "nowhere" / "m_{epoch}.pth")
    with pytest.raises(UserError, match="no checkpoint files"):
        find_checkpoints([])


def test_two_files_of_one_epoch_are_refused(tmp_path):
    touch(tmp_path, "m_1.pth", "m_01.pth")
    with pytest.raises(UserError, match="both of epoch 1"):
        find_checkpoints(tmp_path / "m_{epoch}.pth")
