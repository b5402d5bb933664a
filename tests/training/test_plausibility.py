"""Whether a model and its images belong together."""

import pytest
import torch
from torch import nn

from co_probe.errors import UserError
from co_probe.training.plausibility import check_class_count, logits_on, plausibility

Y = torch.arange(200) % 5


def logits(share: float, order=None) -> torch.Tensor:
    """Logits that are right on a `share` of the images, or that number classes in another `order`."""
    torch.manual_seed(0)
    said = torch.where(torch.rand(len(Y)) < share, Y, torch.randint(5, (len(Y),)))
    return nn.functional.one_hot(said if order is None else torch.tensor(order)[said], 5).float()


def test_a_plausible_model_is_not_doubted():
    assert plausibility(logits(0.6), Y, {"without it": logits(0.3)}) == plausibility(logits(0.6), Y, {})
    assert plausibility(logits(0.6), Y, {}).remark == ""


def test_a_better_normalisation_is_named_and_a_clearly_better_one_is_serious():
    judged = plausibility(logits(0.2), Y, {"without normalisation": logits(0.8), "other": logits(0.1)})
    assert judged.serious and "without normalisation: is the normalisation right" in judged.remark
    judged = plausibility(logits(0.6), Y, {"normalised otherwise": logits(0.7)})
    assert not judged.serious and "normalised otherwise" in judged.remark
    assert plausibility(logits(0.6), Y, {"normalised otherwise": logits(0.63)}).remark == "", "within the noise"


def test_another_order_of_classes_is_named_and_chance_is_not_taken_for_it():
    ordered = plausibility(logits(0.9, order=[1, 2, 3, 4, 0]), Y, {})
    assert ordered.serious and "classes in another order" in ordered.remark
    chance = plausibility(logits(0.0), Y, {"without normalisation": logits(0.0)})
    assert chance.serious and "another order" not in chance.remark and "check normalisation" in chance.remark


def test_outputs_of_another_shape_are_refused():
    x = torch.rand(6, 1, 4, 4)
    assert logits_on(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), x).shape == (6, 5)
    with pytest.raises(UserError, match=r"returned \(6, 1, 4, 4\)"):
        logits_on(nn.Identity(), x)
    with pytest.raises(UserError, match=r"cannot take images of shape \(1, 4, 4\)"):
        logits_on(nn.Sequential(nn.Flatten(), nn.Linear(9, 5)), x)


def test_the_number_of_classes_is_compared():
    assert check_class_count(torch.zeros(200, 5), Y, None) == 5
    for labels, names, said in (
        (Y + 1, None, "pass y - 1"),
        (Y + 2, None, "up to 6"),
        (Y, ("a", "b"), "5 classes and the data 2"),
    ):
        with pytest.raises(UserError, match=said):
            check_class_count(torch.zeros(200, 5), labels, names)
