"""Images and labels as users have them, and what is refused, in one line."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import transforms

from co_probe.data.coerce import check_labels, coerce
from co_probe.data.dataset import to_unit
from co_probe.data.digits import digits
from co_probe.data.normalisation import NORMALISATIONS, Normalisation, as_normalisation
from co_probe.errors import UserError

BYTES = torch.arange(6 * 3 * 4 * 4).remainder(256).to(torch.uint8).view(6, 3, 4, 4)
UNIT = BYTES.float() / 255
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Photographs:
    """A data set of PIL images, as torchvision's without a transform."""

    classes = ("cat", "dog", "ship")

    def __init__(self, transform=None):
        self.transform = transform

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        image = transforms.functional.to_pil_image(BYTES[index])
        return (self.transform(image) if self.transform else image), int(Y[index])


@pytest.mark.parametrize(
    "source",
    [
        (BYTES, Y),
        (UNIT, Y.int()),
        [UNIT.double().numpy(), Y.numpy().astype(np.int32)],
        (BYTES.long(), Y.numpy().astype(np.uint8)),
        TensorDataset(UNIT, Y),
        DataLoader(TensorDataset(UNIT, Y), batch_size=4),
        DataLoader(TensorDataset(UNIT, Y), batch_size=4, collate_fn=lambda items: default_collate(items)),
        [(UNIT[:4], Y[:4]), (UNIT[4:], Y[4:])],
        Photographs(),
        DataLoader(Photographs(transforms.ToTensor()), batch_size=4),
    ],
    ids=lambda source: type(source).__name__,
)
def test_all_sources_of_images_give_the_same_bytes(source):
    images = coerce(source)
    assert torch.equal(images.x, BYTES) and images.x.dtype == torch.uint8
    assert torch.equal(images.y, Y) and images.y.dtype == torch.int64
    assert torch.equal(to_unit(images.x), UNIT)


def test_floats_that_are_not_bytes_are_not_converted():
    x = torch.rand(6, 3, 4, 4)
    assert torch.equal(coerce((x, Y)).x, x)
    assert coerce((x.double(), Y)).x.dtype == torch.float32


def test_classes_come_from_the_data_set():
    assert coerce(Photographs()).classes == ("cat", "dog", "ship")
    assert coerce(DataLoader(Photographs(transforms.ToTensor()))).classes == ("cat", "dog", "ship")
    assert coerce((UNIT, Y)).classes is None


def test_a_name_or_a_data_set_of_co_probe():
    data, named = digits(), coerce("digits")
    assert torch.equal(named.x, data.test_x) and named.source == "digits" and named.classes == data.classes
    assert torch.equal(coerce(data, split="train").x, data.train_x)
    with pytest.raises(UserError, match="unknown data set 'digit'"):
        coerce("digit")


def test_the_same_images_are_drawn_from_every_source():
    pairs = coerce((UNIT, Y), count=3)
    for source in (TensorDataset(UNIT, Y), DataLoader(TensorDataset(UNIT, Y)), [(UNIT[:4], Y[:4]), (UNIT[4:], Y[4:])]):
        assert torch.equal(coerce(source, count=3).x, pairs.x)
    assert len(pairs.y) == 3 and len(coerce((UNIT, Y), count=100).y) == 6
    assert not torch.equal(coerce((UNIT, Y), count=3, seed=1).x, pairs.x)


def test_only_the_drawn_items_of_a_data_set_are_read():
    class Counting(Photographs):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    coerce(DataLoader(Counting(transforms.ToTensor())), count=2)
    assert Counting.read == 2


normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))])


@pytest.mark.parametrize(
    "x, said",
    [
        (UNIT[:, 0], r"\(6, 4, 4\), without an axis of channels: pass x\[:, None\]"),
        (UNIT.permute(0, 2, 3, 1), r"\(6, 4, 4, 3\), with channels last: pass x.permute"),
        (UNIT.flatten(1), r"shape \(6, 48\)"),
        (BYTES.float(), "floats from 0 to 255: pass uint8, or divide by 255"),
        ((UNIT - 0.5) / 0.5, "floats from -1 to 1: they are normalised already"),
        (UNIT * float("nan"), "not finite"),
        (BYTES.clamp(max=1), "uint8 and none is above 1"),
        (BYTES.long() - 3, "int64 from -3 to 252"),
        (BYTES > 3, "bool"),
        (UNIT[:0], "there are no test images|labels"),
    ],
)
def test_images_of_another_form_are_refused(x, said):
    with pytest.raises(UserError, match=said) as caught:
        coerce((x, Y[: len(x)]))
    assert "\n" not in str(caught.value)


def test_the_normalisation_of_a_transform_is_named():
    for source in (Photographs(normalised), DataLoader(Photographs(normalised))):
        with pytest.raises(UserError, match=r"by Normalize\(\(0.4, 0.4, 0.4\), \(0.2, 0.2, 0.2\)\)"):
            coerce(source)


@pytest.mark.parametrize(
    "y, said",
    [
        (torch.eye(3)[Y], r"\(6, 3\), one-hot or probabilities: pass y.argmax\(1\)"),
        (Y[:, None], r"pass y\[:, 0\]"),
        (Y.float(), "float32: pass whole numbers from 0"),
        (Y - 1, "have -1"),
        (Y[:3], "6 test images and 3 labels"),
    ],
)
def test_labels_of_another_form_are_refused(y, said):
    with pytest.raises(UserError, match=said):
        coerce((UNIT, y))


def test_labels_are_compared_with_the_number_of_classes():
    assert torch.equal(check_labels(Y, "test", 3), Y)
    with pytest.raises(UserError, match="from 1 to 3, and the 3 classes count from 0: pass y - 1"):
        check_labels(Y + 1, "test", 3)
    with pytest.raises(UserError, match="up to 2, and the model has 2 classes, 0 to 1"):
        check_labels(Y, "test", 2)


def test_other_things_than_images_are_refused():
    for source, said in (
        (3, "not int"),
        ({"x": UNIT}, "pairs"),
        ([3], "pairs"),
        ([("a", 1)], "images are str"),
        ([], "no test images"),
    ):
        with pytest.raises(UserError, match=said):
            coerce(source)


def test_bounds_are_the_users():
    x = UNIT * 4 - 2
    assert torch.equal(coerce((x, Y), bounds=(-2, 2)).x, x)
    with pytest.raises(UserError, match="within the bounds, -1 to 1"):
        coerce((x, Y), bounds=(-1, 1))


def test_constants_of_normalisation():
    cifar = NORMALISATIONS["cifar10"]
    assert as_normalisation("cifar10", 3) == as_normalisation(cifar, 3) == cifar
    assert as_normalisation((cifar.mean, torch.tensor(cifar.std).double().view(3, 1, 1)), 3).mean == cifar.mean
    assert as_normalisation("half", 1) == as_normalisation((0.5, [0.5]), 1) == Normalisation((0.5,), (0.5,))
    assert as_normalisation((np.float32(0.5), 0.25), 3) == Normalisation((0.5,) * 3, (0.25,) * 3)
    for wrong, said in (
        ("cifar", "did you mean cifar10"),
        (((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), "divide by 255"),
        (((0.5, 0.5), (0.5, 0.5)), "2 means and 2 stds, and images have 3"),
        (0.5, "pair"),
        (((0.5, 0.5, 0.5), (0, 1, 1)), "std above 0"),
    ):
        with pytest.raises(UserError, match=said):
            as_normalisation(wrong, 3)
