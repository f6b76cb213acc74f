"""What no attack can work with is an error that names it, with expected and got; the rest is a defined result."""

from typing import Any

import pytest
import torch
from oracle_models import linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks import ATTACKS
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import likeliest_wrong
from deconfound.attacks.victim import Victim, attacking, check
from deconfound.errors import AttackError, ConfigError, NoGradientError
from deconfound.registry import build

X, Y = torch.full((4, 1, 4, 4), 0.5), torch.tensor([0, 1, 2, 0])


class Says(nn.Module):
    """Returns what a function makes of the images."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x)


def logits(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :3]


WRONG_MODELS = {
    "NaN": (
        lambda x: logits(x) * float("nan"),
        "model: expected finite logits, got NaN or infinity for 4 of 4",
    ),
    "infinity": (lambda x: logits(x) + torch.tensor([torch.inf, 0, 0]), "model: expected finite logits"),
    "one row too few": (lambda x: logits(x)[1:], r"model: expected logits \(4, K\), got \(3, 3\)"),
    "no rows": (lambda x: logits(x).sum(), r"model: expected logits \(4, K\), got \(\)"),
    "features of images": (lambda x: x, r"model: expected logits \(4, K\), got \(4, 1, 4, 4\)"),
    "a tuple": (lambda x: (logits(x),), r"model: expected logits \(4, K\), got tuple"),
    "integers": (lambda x: logits(x).long(), "model: expected floating-point logits, got torch.int64"),
    "two classes": (
        lambda x: logits(x)[:, :2],
        "y: expected labels below the number of classes .* got label 2 for 2",
    ),
    "one class": (lambda x: logits(x)[:, :1], "y: expected labels below the number of classes"),
}


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_a_model_that_returns_no_logits_is_refused(name: str) -> None:
    answer, message = WRONG_MODELS[name]
    with pytest.raises(AttackError, match=message):
        PGD(eps=0.1)(Says(answer), X, Y, rng=torch.Generator())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: logits(x.detach()), "got logits without a gradient"),
        (lambda x: torch.zeros(4, 3, requires_grad=True) + 0 * logits(x.detach()), "got logits that do not"),
    ],
)
def test_a_model_without_a_gradient_is_refused_by_what_ascends(answer: Any, message: str) -> None:
    with pytest.raises(NoGradientError, match=message):
        PGD(eps=0.1)(Says(answer), X, Y, rng=torch.Generator())


WRONG_INPUTS = {
    "above one": (X + 0.6, Y, r"x: expected pixels in \[0, 1\], got values from 1.1 to 1.1"),
    "below zero": (X - 0.6, Y, r"x: expected pixels in \[0, 1\], got values from -0.1 to -0.1"),
    "NaN": (X * float("nan"), Y, r"x: expected pixels in \[0, 1\], got values from nan"),
    "bytes": (X.to(torch.uint8), Y, "x: expected float images .* got torch.uint8"),
    "a single number each": (X[:, 0, 0, 0], Y, r"x: expected float images .* got torch.float32 \(4,\)"),
    "too few labels": (X, Y[:3], r"y: expected 4 integer labels, got torch.int64 \(3,\)"),
    "soft labels": (X, Y.float(), "y: expected 4 integer labels, got torch.float32"),
    "negative label": (X, Y - 1, "y: expected labels of at least 0, got -1"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_images_and_labels_that_are_none_are_refused(name: str) -> None:
    x, y, message = WRONG_INPUTS[name]
    with pytest.raises(AttackError, match=message):
        PGD(eps=0.1)(small_network(), x, y, rng=torch.Generator())
    with pytest.raises(AttackError, match=message):
        check(x, y)


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf"), True, "a lot"])
@pytest.mark.parametrize("kind", ["fgsm", "bim", "pgd", "mim", "apgd", "autoattack", "square", "fab"])
def test_a_radius_that_is_none_is_refused_with_its_place(kind: str, eps: Any) -> None:
    with pytest.raises(ConfigError, match=r"attacks\.x\.eps: "):
        build(ATTACKS, {"kind": kind, "eps": eps}, at="attacks.x")


def test_probabilities_are_attacked_as_if_they_were_logits() -> None:
    model, x, y = linear_problem()
    softmax = Says(lambda z: model(z).softmax(1))
    found = PGD(eps=0.1)(softmax, x, y, rng=torch.Generator().manual_seed(0))
    assert (softmax(found).argmax(1) != y).any()


def test_only_the_first_batch_rows_that_are_asked_for_are_compared_with_their_labels() -> None:
    victim = Victim(Says(logits), Y)
    scores = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    assert victim.errs(scores, torch.tensor([1, 2])).tolist() == [False, True]
    part = victim.part(torch.tensor([3, 1])).part(torch.tensor([1]))
    assert part.rows.tolist() == [1] and part.y.tolist() == [1]


def test_the_likeliest_wrong_classes_come_largest_first_and_never_hold_the_true_one() -> None:
    table = torch.tensor([[3.0, 2, 1], [1, 3, 2], [3, 1, 2], [1, 2, 3]])
    assert likeliest_wrong(table, Y, 9).tolist() == [[1, 2], [2, 0], [0, 1], [2, 1]]
    assert likeliest_wrong(table, Y, 1).tolist() == [[1], [2], [0], [2]]


def test_inside_an_attack_the_model_is_frozen_and_afterwards_as_it_was() -> None:
    model = small_network().train()
    with attacking(model, X, Y) as victim:
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        assert victim(X).shape == (4, 3)
    assert model.training and all(p.requires_grad for p in model.parameters())
