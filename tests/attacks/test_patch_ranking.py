"""Patch ranking: which patches it tries first, how many it may change, and that scores are all it asks for."""

import pytest
import torch
from oracle_models import small_network
from torch import Tensor, nn

from deconfound.attacks.patch_ranking import FILLS, PatchRanking
from deconfound.models.classifier import predict


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Patches(nn.Module):
    """Two classes on 4 x 4 images: the margin of class 1 is the weighted sum over the four quarters of their mean
    brightness, minus a threshold. Nobody may take a gradient.
    """

    def __init__(self, weights: list[float], threshold: float) -> None:
        super().__init__()
        self.weights, self.threshold = torch.tensor(weights), threshold

    def forward(self, x: Tensor) -> Tensor:
        assert not (torch.is_grad_enabled() and x.requires_grad)
        means = nn.functional.avg_pool2d(x.mean(1, keepdim=True), x.shape[-1] // 2).flatten(1)
        margin = means @ self.weights - self.threshold
        return torch.stack([-margin, margin], 1) / 2


GREY = torch.full((1, 1, 4, 4), 0.5)
ONE = torch.ones(1, dtype=torch.int64)


def changed(x: Tensor, z: Tensor) -> list[bool]:
    """Which quarters differ."""
    return nn.functional.max_pool2d((z - x).abs().amax(1, keepdim=True), 2).flatten().gt(0).tolist()


def test_patches_are_ranked_by_what_they_contribute_to_the_margin() -> None:
    model = Patches([1.0, 4.0, -3.0, 2.0], 0.0)
    x = torch.rand(5, 3, 4, 4, generator=fresh())
    ranks = PatchRanking(eps=1, grid=2).ranks(model, x, torch.ones(5, dtype=torch.int64), rng=fresh())
    shares = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1) * model.weights
    assert torch.equal(ranks, shares.argsort(dim=1, descending=True))
    other = PatchRanking(eps=1, grid=2).ranks(model, x, torch.zeros(5, dtype=torch.int64), rng=fresh())
    assert torch.equal(other, shares.argsort(dim=1))  # what speaks for class 1 speaks against class 0


def test_a_patch_that_keeps_a_rival_down_speaks_for_the_label_too() -> None:
    class Rival(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            means = nn.functional.avg_pool2d(x, 2).flatten(1)
            return torch.stack([-3 * means[:, 2], means[:, 0], 0 * means[:, 0] - 9], 1)

    ranks = PatchRanking(eps=1, grid=2).ranks(Rival(), GREY, ONE, rng=fresh())
    assert ranks[0, :2].tolist() == [2, 0]


def test_with_room_for_one_patch_the_most_important_one_is_overwritten_by_the_best_fill() -> None:
    model = Patches([1.0, 4.0, 1.0, 2.0], -9.0)
    for fill, expected in ((("black", "white", "mean"), 0.0), (("white", "mean"), 0.5)):
        z = PatchRanking(eps=0.25, grid=2, fills=fill)(model, GREY, ONE, rng=fresh())
        assert changed(GREY, z) == [False, expected == 0.0, False, False]
        assert z[0, 0, 0, 2:].tolist() == [
            expected,
            expected,
        ]  # white is worse than nothing, and mean is nothing


def test_it_ends_as_soon_as_the_label_is_another() -> None:
    # margin 4 at 0.5 everywhere; black in quarter 1 takes 2, in quarter 3 takes 1, in the others half
    for threshold, expected in (
        (2.5, [False, True, False, False]),
        (1.5, [False, True, False, True]),
        (0.9, [True, True, False, True]),
        (-5.0, [True, True, True, True]),  # never
    ):
        model = Patches([1.0, 4.0, 1.0, 2.0], threshold)
        z = PatchRanking(eps=1, grid=2)(model, GREY, ONE, rng=fresh())
        assert changed(GREY, z) == expected
        assert (predict(model, z).argmax(1) == 0).item() == (threshold > 0)


def test_an_image_is_attacked_as_if_it_were_alone() -> None:
    model, attack = Patches([1.0, 4.0, 1.0, 2.0], 1.5), PatchRanking(eps=0.75, grid=2)
    x, y = torch.rand(12, 1, 4, 4, generator=fresh()), torch.arange(12) % 2
    together = attack(model, x, y, rng=fresh())
    for row in range(12):
        assert torch.allclose(
            attack(model, x[row : row + 1], y[row : row + 1], rng=fresh()), together[row : row + 1]
        )
    wrong = predict(model, x).argmax(1) != y
    assert wrong.any() and not wrong.all() and torch.equal(together[wrong], x[wrong])


def test_a_patch_that_does_not_fit_is_passed_over_for_the_next_that_does() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.flatten(1).sum(1)
            return torch.stack([-bright, bright], 1)

    x = torch.full((1, 1, 5, 5), 0.9)  # patches of 3 x 3, 3 x 2, 2 x 3 and 2 x 2
    for pixels, expected in ((3, 0), (4, 4), (5, 4), (6, 6), (10, 9), (12, 9), (15, 15)):
        z = PatchRanking(eps=pixels / 25, grid=2)(Sum(), x, ONE, rng=fresh())
        assert int((z != x).sum()) == expected, pixels


@pytest.mark.parametrize("order", ["kernel_shap", "random"])
@pytest.mark.parametrize("eps", [0.05, 0.2, 0.5, 1.0])
def test_at_most_a_part_eps_of_the_pixels_changes(order: str, eps: float) -> None:
    model, attack = small_network(), PatchRanking(eps=eps, grid=3, order=order, samples=20)
    x, y = torch.rand(20, 1, 4, 4, generator=fresh()), torch.arange(20) % 3
    z = attack(model, x, y, rng=fresh())
    assert attack.threat.contains(x, z).all()
    assert ((z != x).flatten(1).sum(1) <= int(eps * 16 + 1e-6)).all()
    before, after = (predict(model, part).log_softmax(1).gather(1, y[:, None]) for part in (x, z))
    assert (after <= before + 0.2).all()


def test_what_an_explanation_finds_first_goes_further_than_what_chance_does() -> None:
    rng = fresh()
    model = Patches([8.0, 1.0, 1.0, 1.0], 3.0)
    x = torch.rand(200, 1, 4, 4, generator=rng) * 0.4 + 0.5
    y = torch.ones(200, dtype=torch.int64)
    broken = {
        order: int(
            (predict(model, PatchRanking(eps=0.25, grid=2, order=order)(model, x, y, rng=fresh(3))))
            .argmax(1)
            .eq(0)
            .sum()
        )
        for order in ("kernel_shap", "random")
    }
    assert broken == {"kernel_shap": 200, "random": 0}  # the draw begins with another patch


def test_fills_are_what_their_names_say() -> None:
    x = torch.tensor([0.0, 0.2, 0.4, 1.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    x[:, 1] *= 0.5
    assert not FILLS["black"](x).any() and FILLS["white"](x).eq(1).all()
    assert torch.allclose(FILLS["mean"](x)[0, :, 0, 0], torch.tensor([0.4, 0.2]))
    assert torch.equal(FILLS["inverse"](x), 1 - x)


def test_an_image_narrower_than_the_grid_is_one_of_as_many_patches_as_it_has_pixels() -> None:
    model = small_network()
    y = torch.tensor([0])
    for shape in ((1, 1, 1, 16), (1, 1, 16, 1)):
        x = torch.rand(shape, generator=fresh())
        assert torch.equal(PatchRanking(eps=0.5)(model, x, y, rng=fresh()), x)  # the only patch is the image


@pytest.mark.parametrize(("order", "draws"), [("kernel_shap", False), ("random", True)])
def test_chance_draws_one_order_and_few_patches_draw_nothing(order: str, draws: bool) -> None:
    rng, model = fresh(), small_network()
    x, y = torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    ranks = PatchRanking(eps=0.5, grid=2, order=order).ranks(model, x, y, rng=rng)
    assert torch.equal(rng.get_state(), fresh().get_state()) != draws
    assert sorted(ranks[0].tolist()) == [0, 1, 2, 3]
    assert not draws or (ranks == ranks[0]).all()
