"""What every attribution promises, and what each has to give on networks whose answer is known."""

from typing import Any

import pytest
import torch
from networks import (
    CLASSES,
    SETTINGS,
    SIDE,
    bias_free,
    branched,
    fresh,
    gradient,
    images,
    linear,
    made,
    small_cnn,
    trained,
)
from oracle_models import same, snapshot
from torch import Tensor, nn

from deconfound.attributions import ATTRIBUTIONS
from deconfound.attributions.asking import scalars
from deconfound.attributions.baselines import Baseline, blurred
from deconfound.attributions.faithfulness import completeness_error
from deconfound.attributions.grad_cam import read_layer
from deconfound.attributions.integrated_gradients import IntegratedGradients
from deconfound.attributions.patches import (
    additive_fit,
    every_coalition,
    kernel_weights,
    ridge_fit,
    shapley_draws,
    shapley_matrix,
    similarity,
)
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.timm_models import TimmModel
from deconfound.models.wide_resnet import WideResNet
from deconfound.rng import generator, global_seed

SEES_BASELINES = ["integrated_gradients", "deep_lift", "occlusion", "shapley", "kernel_shap", "lime"]
ADDS_UP = ["integrated_gradients", "deep_lift", "shapley", "kernel_shap"]
REWRITES = ["deep_lift", "guided_backprop", "lrp"]


def explain(kind: str, model: Classifier, x: Tensor, y: Tensor, *, seed: int = 0, **changes: Any) -> Tensor:
    found: Tensor = made(kind, **changes)(model, x, y, rng=fresh(seed))
    return found


# What all of them promise


def hooks(model: nn.Module) -> list[int]:
    return [
        len(getattr(module, f"_{when}"))
        for module in model.modules()
        for when in ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    ]


def test_every_kind_is_tested() -> None:
    assert set(SETTINGS) == set(ATTRIBUTIONS)


@pytest.mark.parametrize("scalar", ["logit", "margin"])
@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_maps_have_their_shape_and_model_images_and_global_generator_are_as_they_were(
    kind: str, scalar: str
) -> None:
    model = small_cnn().train()
    model.body[1].eval()  # type: ignore[index, operator]
    model.head.weight.requires_grad_(False)
    x, y = images()
    before = snapshot(model), hooks(model), x.clone(), torch.get_rng_state()
    attributes = [set(vars(module)) for module in model.modules()]
    found = explain(kind, model, x, y, scalar=scalar)
    assert same((snapshot(model), hooks(model), x, torch.get_rng_state()), before)
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert found.shape == (5, 1 if kind == "grad_cam" else 2, SIDE, SIDE)
    assert found.dtype == torch.float32 and not found.requires_grad and found.isfinite().all()
    assert found.flatten(1).std(1).min() > 0
    assert torch.allclose(found, explain(kind, model.eval(), x, y, scalar=scalar), atol=1e-6)


class Faulty(nn.Module):
    """The identity, until its calls are used up."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = [calls]  # shared with copies

    def __deepcopy__(self, memo: object) -> "Faulty":
        twin = Faulty(0)
        twin.calls = self.calls
        return twin

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] -= 1
        if self.calls[0] < 0:
            raise ArithmeticError
        return x


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("kind", sorted(set(ATTRIBUTIONS) - set(REWRITES)))
def test_a_model_comes_back_as_it_was_from_a_pass_that_fails(kind: str, calls: int) -> None:
    model, (x, y) = bias_free(last=Faulty(calls)).train(), images()
    before = snapshot(model), hooks(model)
    with pytest.raises(ArithmeticError):
        explain(kind, model, x, y, chunk=2)
    assert same((snapshot(model), hooks(model)), before)


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_rows_do_not_influence_each_other_and_chunks_change_nothing(kind: str) -> None:
    model, (x, y), order = small_cnn(), images(), torch.tensor([3, 1, 4, 0, 2])
    x = x * torch.tensor([0.2, 1.0, 0.5, 0.3, 0.8]).view(-1, 1, 1, 1)  # each with a range of its own
    whole = explain(kind, model, x, y)
    tolerance = {"atol": 1e-6, "rtol": 0.0}
    assert torch.allclose(explain(kind, model, x[order], y[order]), whole[order], **tolerance)
    assert torch.allclose(explain(kind, model, x[3:4], y[3:4]), whole[3:4], **tolerance)
    assert torch.allclose(explain(kind, model, x, y, chunk=2), whole, **tolerance)


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_no_images_give_no_maps(kind: str) -> None:
    x, y = images()
    found = explain(kind, small_cnn(), x[:0], y[:0])
    assert found.shape == (0, 1 if kind == "grad_cam" else 2, SIDE, SIDE) and found.dtype == torch.float32


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_the_same_seed_gives_the_same_map_and_only_methods_that_draw_see_another(kind: str) -> None:
    model, (x, y) = small_cnn(), images()
    first = explain(kind, model, x, y)
    assert torch.equal(explain(kind, model, x, y), first)
    draws = kind in ("smooth_grad", "kernel_shap", "lime")
    assert torch.equal(explain(kind, model, x, y, seed=1), first) is not draws


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_what_cannot_be_asked_is_refused(kind: str) -> None:
    model, (x, y) = small_cnn(), images()
    wrong: list[tuple[Tensor, Tensor]] = [
        (x, y.float()),
        (x, y[:3]),
        (x, torch.full_like(y, CLASSES)),
        (x, torch.full_like(y, -1)),
        ((x * 255).byte(), y),
        (x[0], y),
        (x / 0, y),
    ]
    for images_, target in wrong:
        with pytest.raises(UserError, match="expected"):
            explain(kind, model, images_, target)


@pytest.mark.parametrize("kind", sorted(set(ATTRIBUTIONS) - {"grad_cam", "guided_backprop"}))
def test_a_margin_of_a_linear_model_is_the_difference_of_two_logits(kind: str) -> None:
    model, (x, _) = linear(), images(4, 1, 4)
    order = model(x).argsort(1)
    for target, rival in ((order[:, 2], order[:, 1]), (order[:, 0], order[:, 2])):
        margin = explain(kind, model, x, target, scalar="margin")
        two = explain(kind, model, x, target) - explain(kind, model, x, rival)
        assert torch.allclose(margin, two, atol=1e-5)


@pytest.mark.parametrize(
    "kind", sorted(set(ATTRIBUTIONS) - {"occlusion", "shapley", "kernel_shap", "lime", "grad_cam"})
)
def test_a_pixel_that_the_model_does_not_see_gets_nothing(kind: str) -> None:
    model, (x, y) = small_cnn(), images()
    model.body[0].weight.data[:, 1] = 0  # type: ignore[index, union-attr]
    found = explain(kind, model, x, y)
    assert found[:, 1].abs().max() <= 1e-7 < found[:, 0].abs().max()


@pytest.mark.parametrize("kind", ["occlusion", "shapley", "kernel_shap"])
def test_a_patch_that_the_model_does_not_see_gets_nothing(kind: str) -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    model.head.weight.data.view(CLASSES, 4, 4)[:, :2, :2] = 0
    settings = {"window": 2, "stride": 2} if kind == "occlusion" else {"grid": 2}
    found = explain(kind, model, x, y, **settings)
    assert found[:, :, :2, :2].abs().max() <= 1e-7 < found.abs().max()


@pytest.mark.parametrize("kind", sorted(set(ATTRIBUTIONS) - {"shapley", "kernel_shap", "lime", "grad_cam"}))
def test_a_pixel_that_is_multiplied_by_zero_gets_nothing(kind: str) -> None:
    with global_seed(generator(0, "blind")):
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU())
        model, (x, y) = Classifier(body, nn.Linear(12, CLASSES), channels=1).eval(), images(4, 1, 4)
    body[1].weight.data[:, 6] = 0  # pixel (1, 2)
    found = explain(kind, model, x, y, **({"window": 1, "stride": 1} if kind == "occlusion" else {}))
    assert found[:, 0, 1, 2].abs().max() <= 1e-7
    assert (found.flatten(1).abs().amax(0) > 1e-4).sum() == 15


# Gradients


def test_saliency_is_the_gradient_to_the_bit() -> None:
    model, (x, y) = small_cnn(), images()
    assert torch.equal(explain("saliency", model, x, y), gradient(model, x, y))


def test_input_x_gradient_is_their_product() -> None:
    model, (x, y) = small_cnn(), images()
    assert torch.equal(explain("input_x_gradient", model, x, y), x * gradient(model, x, y))


def test_smooth_grad_without_noise_is_the_gradient_and_with_it_a_mean_of_gradients() -> None:
    model, (x, y) = small_cnn(), images()
    assert torch.allclose(explain("smooth_grad", model, x, y, sigma=0), gradient(model, x, y), atol=1e-6)
    assert torch.allclose(explain("smooth_grad", model, x, y, sigma=1e-6), gradient(model, x, y), atol=1e-6)
    noise = torch.randn(3, 2, SIDE, SIDE, generator=fresh())
    width = 0.15 * (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(-1, 1, 1, 1)
    mean = sum(gradient(model, x + width * one, y) for one in noise) / 3
    assert torch.allclose(explain("smooth_grad", model, x, y), mean, atol=1e-6)  # type: ignore[arg-type]


# Baselines and completeness


@pytest.mark.parametrize("kind", ADDS_UP)
@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "uniform"])
@pytest.mark.parametrize("scalar", ["logit", "margin"])
def test_maps_add_up_to_the_difference_to_their_baseline(kind: str, baseline: str, scalar: Any) -> None:
    """DeepLift on average pooling, integrated gradients with many steps."""
    model, (x, y) = bias_free(), images()
    model.mean.fill_(0.4)
    settings = {"steps": 300} if kind == "integrated_gradients" else {}
    found = explain(kind, model, x, y, baseline=baseline, scalar=scalar, **settings)
    blanks = Baseline(kind=baseline).maker(model, x.shape[1:], rng=fresh())(x)
    own = scalars(model, x, y, scalar=scalar)
    gaps = [own - scalars(model, x, y, at=blank, scalar=scalar) for blank in blanks]
    assert len(gaps) == (4 if baseline == "uniform" else 1)
    wanted = torch.stack(gaps).mean(0)
    assert torch.allclose(found.sum((1, 2, 3)), wanted, atol=2e-3 if settings else 1e-6)
    assert wanted.abs().max() > 5e-3


def test_more_steps_make_integrated_gradients_complete() -> None:
    model, x, y = trained()
    gap = scalars(model, x, y) - scalars(model, x, y, at=torch.zeros_like(x))
    for steps, most in ((50, 0.02), (200, 0.005)):
        found = explain("integrated_gradients", model, x, y, steps=steps).sum((1, 2, 3))
        assert ((found - gap).abs() / gap.abs()).median() < most


def test_integrated_gradients_of_random_networks_are_complete_to_two_thousandths() -> None:
    x, y = images()
    for seed in range(4):
        with global_seed(generator(seed, "random")):
            model = SmallCNN(widths=(4, 6), hidden=10)((2, SIDE, SIDE), CLASSES)
            for _ in range(5):
                model(torch.rand(32, 2, SIDE, SIDE))
        maps = explain("integrated_gradients", model.eval(), x, y, steps=50)
        error, share = completeness_error(model, x, y, maps, rng=fresh(), baseline=Baseline())
        assert error.max() < 2e-3 and (error / share).min() > 1e-3


def test_integrated_gradients_of_a_linear_model_need_one_step() -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    found = explain("integrated_gradients", model, x, y, steps=1, baseline="blur")
    wanted = model.head.weight[y].view_as(x) * (x - blurred(x, 5.0))
    assert torch.allclose(found, wanted, atol=1e-6)


class Cube(nn.Module):
    """Pixels to the third power, in a row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) ** 3


def test_two_points_on_the_way_are_enough_for_a_gradient_of_second_degree() -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    model.body = Cube()
    found = explain("integrated_gradients", model, x, y, steps=2, baseline="blur")
    wanted = model.head.weight[y].view_as(x) * (x**3 - blurred(x, 5.0) ** 3)
    assert torch.allclose(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", SEES_BASELINES)
def test_an_image_that_is_its_own_baseline_has_an_empty_map(kind: str) -> None:
    model, (x, y) = small_cnn(mean=0.25), images()
    grey = torch.full_like(x, 0.25)
    for baseline, image in (("zero", torch.zeros_like(x)), ("mean", grey), ("blur", grey)):
        assert explain(kind, model, image, y, baseline=baseline).abs().max() <= 1e-6


def test_a_blur_keeps_flat_images_and_widens_a_point_as_a_gaussian_does() -> None:
    assert torch.allclose(blurred(torch.full((1, 3, 5, 4), 0.7), 5.0), torch.full((1, 3, 5, 4), 0.7))
    point = torch.zeros(1, 2, 31, 31)
    point[0, 1, 15, 15] = 1
    found = blurred(point, 1.5)
    steps = torch.arange(31.0) - 15
    assert not found[0, 0].any() and found.sum() == pytest.approx(1, abs=1e-5)
    assert (found[0, 1].sum(0) * steps**2).sum() == pytest.approx(1.5**2, rel=0.01)


def test_a_baseline_is_named_or_described_and_the_mean_needs_a_classifier() -> None:
    assert made("integrated_gradients", baseline="blur").baseline == Baseline(kind="blur")
    block = {"kind": "uniform", "draws": 2}
    assert made("lime", baseline=block).baseline == Baseline(kind="uniform", draws=2)
    assert IntegratedGradients().baseline == Baseline(kind="zero")
    with pytest.raises(UserError, match="Classifier"):
        Baseline(kind="mean").maker(nn.Flatten(), torch.Size((1, 2, 2)), rng=fresh())


# Rules that rewrite the backward pass


def test_lrp_and_input_x_gradient_of_a_network_without_biases_agree_and_sum_to_the_logit() -> None:
    for pool in (nn.AvgPool2d(2), nn.MaxPool2d(2)):
        model, (x, y) = bias_free(pool), images()
        relevance = explain("lrp", model, x, y)
        product = explain("input_x_gradient", model, x, y)
        assert torch.allclose(relevance, product, atol=1e-6, rtol=0)
        for maps in (relevance, product):
            assert torch.allclose(maps.sum((1, 2, 3)), scalars(model, x, y), atol=1e-6, rtol=0)


def test_relevance_belongs_to_normalised_pixels_and_is_conserved_there() -> None:
    model, (x, y) = bias_free(), images()
    model.mean.fill_(0.4)
    model.std.fill_(0.25)
    z = (x - 0.4) / 0.25
    plain = bias_free()
    found = explain("lrp", model, x, y)
    assert torch.allclose(found, z * gradient(plain, z, y), atol=1e-5)
    assert torch.allclose(found.sum((1, 2, 3)), scalars(model, x, y), atol=1e-5)


def test_the_gamma_rule_conserves_relevance_and_gives_another_map() -> None:
    model, (x, y) = bias_free(), images()
    found = explain("lrp", model, x, y, gamma=0.25)
    assert torch.allclose(found.sum((1, 2, 3)), scalars(model, x, y), atol=1e-5)
    assert (found - explain("lrp", model, x, y)).abs().max() > 1e-3


def test_a_large_epsilon_absorbs_relevance() -> None:
    model, (x, y) = bias_free(), images()
    found = explain("lrp", model, x, y, epsilon=0.5)
    assert (found.sum((1, 2, 3)).abs() < scalars(model, x, y).abs()).all()


def test_lrp_conserves_through_an_addition_module_and_refuses_a_plain_sum() -> None:
    x, y = images()
    model = branched("addition module")
    found = explain("lrp", model, x, y).sum((1, 2, 3))
    assert torch.allclose(found, scalars(model, x, y), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"lrp: layer body.0 computes `add` of two results"):
        explain("lrp", branched("sum"), x, y)


@pytest.mark.parametrize(("how", "layer"), [("activated branch", "act"), ("dropped branch", "drop")])
def test_lrp_refuses_a_layer_that_passes_on_what_another_branch_takes_too(how: str, layer: str) -> None:
    x, y = images(2)
    with pytest.raises(UserError, match=rf"lrp: layer body\.0\.{layer} \(\w+\) takes a result"):
        made("lrp")(branched(how), x, y, rng=fresh())


def test_deep_lift_adds_up_through_a_residual_sum_and_average_pooling() -> None:
    x, y = images()
    for model in (branched("sum"), bias_free()):
        gap = scalars(model, x, y) - scalars(model, x, y, at=torch.zeros_like(x))
        found = explain("deep_lift", model, x, y).sum((1, 2, 3))
        assert torch.allclose(found, gap, atol=1e-6, rtol=0)


def test_guided_backpropagation_drops_what_is_negative_at_a_relu() -> None:
    model, (x, y) = bias_free(), images()
    first, second = model.body[0], model.body[3]  # type: ignore[index]
    a = first(x)
    b = second(model.body[2](a.relu()))  # type: ignore[index, operator]
    back = model.head.weight[y].view_as(b).clamp(min=0) * (b > 0)
    back = nn.functional.conv_transpose2d(back, second.weight, padding=1)
    back = nn.functional.interpolate(back / 4, scale_factor=2).clamp(min=0) * (a > 0)
    wanted = nn.functional.conv_transpose2d(back, first.weight, padding=1)
    assert torch.allclose(explain("guided_backprop", model, x, y), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", REWRITES)
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("functional", r"layer body\.0 computes `relu` outside a module"),
        ("shared", r"layer body\.0\.act \(ReLU\) is called 2 times"),
        ("gate", r"layer body\.0 (multiplies|computes `mul` of two)"),
    ],
)
def test_a_network_that_a_rule_would_misread_is_refused_by_name(kind: str, how: str, told: str) -> None:
    model, (x, y) = branched(how), images()
    before = snapshot(model), hooks(model)
    with pytest.raises(UserError, match=f"{kind}: {told}"):
        explain(kind, model, x, y)
    assert same((snapshot(model), hooks(model)), before)
    if how != "gate":
        assert explain("saliency", model, x, y).isfinite().all()


@pytest.mark.parametrize("kind", REWRITES)
@pytest.mark.parametrize("layer", [nn.GELU(), nn.SiLU(), nn.LayerNorm(5 * 16), nn.Softmax(1)])
def test_a_layer_without_a_rule_is_refused_by_name(kind: str, layer: nn.Module) -> None:
    with pytest.raises(UserError, match=rf"{kind}: layer body\.6 is a {type(layer).__name__}"):
        explain(kind, bias_free(last=layer), *images())


@pytest.mark.parametrize("kind", REWRITES)
def test_wide_residual_networks_are_refused_and_methods_that_rewrite_nothing_take_them(kind: str) -> None:
    with global_seed(generator(0, "wrn")):
        model = WideResNet(depth=10)((2, SIDE, SIDE), CLASSES).eval()
    x, y = images(2)
    with pytest.raises(UserError, match=rf"{kind}: layer body\.1 computes `relu`"):
        explain(kind, model, x, y)
    assert explain("grad_cam", model, x, y).shape == (2, 1, SIDE, SIDE)
    assert read_layer(model, x[:1]) == "body.5"  # the ReLU before the average


def test_a_timm_network_is_read_by_what_suits_it() -> None:
    with global_seed(generator(0, "timm")):
        model = TimmModel(name="resnet10t")((2, SIDE, SIDE), CLASSES).eval()
        transformer = TimmModel(
            name="vit_tiny_patch16_224", options={"img_size": SIDE, "patch_size": 4, "depth": 1}
        )((2, SIDE, SIDE), CLASSES).eval()
    x, y = images(2)
    with pytest.raises(UserError, match=r"lrp: layer body\.model\.\S+ computes"):
        explain("lrp", model, x, y)
    for kind in ("deep_lift", "guided_backprop"):  # its activations are modules, one per call
        assert explain(kind, model, x, y).isfinite().all()
    assert explain("grad_cam", model, x, y).isfinite().all()
    assert explain("integrated_gradients", transformer, x, y).isfinite().all()
    with pytest.raises(UserError, match="transformer"):
        explain("grad_cam", transformer, x, y)
    for kind in REWRITES:
        with pytest.raises(UserError, match=f"{kind}: layer"):
            explain(kind, transformer, x, y)


# Grad-CAM


def test_grad_cam_is_the_weighted_sum_of_the_last_maps_enlarged() -> None:
    model, (x, y) = small_cnn(), images()
    assert read_layer(model, x[:1]) == "body.6"
    halved = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Sequential(nn.MaxPool2d(2)), nn.Flatten())
    assert read_layer(Classifier(halved, nn.Linear(36, 2), channels=2), x[:1]) == "body.1"  # not yet halved
    maps = model.body[:7]((x - 0.3) / 0.5).detach().requires_grad_(True)  # type: ignore[index, operator]
    logits = model.head(model.body[7:](maps))  # type: ignore[index, operator]
    (slope,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), maps)
    cam = (slope.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
    for positive, wanted in ((True, cam.relu()), (False, cam)):
        wanted = nn.functional.interpolate(wanted, (SIDE, SIDE), mode="bilinear")
        assert torch.allclose(explain("grad_cam", model, x, y, positive=positive), wanted, atol=1e-6)
    assert explain("grad_cam", model, x, y).min() >= 0


def test_grad_cam_does_not_see_the_bias_of_its_class() -> None:
    model, (x, y) = small_cnn(), images()
    before = explain("grad_cam", model, x, y)
    model.head.bias.data += torch.tensor([3.0, -2.0, 100.0])
    assert torch.equal(explain("grad_cam", model, x, y), before)


def test_grad_cam_reads_the_layer_that_it_is_told_or_says_which_there_are() -> None:
    model, (x, y) = small_cnn(), images()
    assert not torch.equal(explain("grad_cam", model, x, y, layer="body.2"), explain("grad_cam", model, x, y))
    for wrong in ("body.9", "nothing", "head"):
        with pytest.raises(UserError, match="called once and puts out maps.*body"):
            explain("grad_cam", model, x, y, layer=wrong)
    with pytest.raises(UserError, match="no layer"):
        explain("grad_cam", linear(), *images(2, 1, 4))


# Windows and patches


def test_occlusion_of_single_pixels_of_a_linear_model_is_weight_times_pixel() -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    model.mean.fill_(0.0)
    weight = model.head.weight.detach()[y].view_as(x)
    found = explain("occlusion", model, x, y, window=1, stride=1)
    assert torch.allclose(found, weight * x, atol=1e-5)
    grey = explain("occlusion", model, x, y, window=1, stride=1, baseline={"kind": "uniform", "draws": 1})
    assert torch.allclose(grey, weight * (x - torch.rand(1, 1, 4, 4, generator=fresh())), atol=1e-5)


def test_windows_side_by_side_share_out_what_each_of_them_costs() -> None:
    model, (x, y) = linear(2), images(4, 2, 4)
    part = (model.head.weight.detach()[y].view_as(x) * x).view(4, 2, 2, 2, 2, 2).sum((1, 3, 5))
    wanted = part.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand_as(x) / 8
    assert torch.allclose(explain("occlusion", model, x, y, window=2, stride=2), wanted, atol=1e-5)
    for kind in ("shapley", "kernel_shap"):
        assert torch.allclose(explain(kind, model, x, y, grid=2), wanted, atol=1e-5)


def test_windows_and_grids_that_do_not_fit_are_refused() -> None:
    x, y = images()
    for kind, wrong in (("occlusion", {"window": 9}), ("occlusion", {"window": 2, "stride": 3})):
        with pytest.raises(UserError, match="window"):
            explain(kind, small_cnn(), x, y, **wrong)
    with pytest.raises(UserError, match="grid"):
        explain("lime", small_cnn(), x, y, grid=9)
    with pytest.raises(UserError, match="grid"):
        explain("kernel_shap", small_cnn(), x, y, grid=1)


def test_shapley_values_of_small_games_are_those_of_the_definition() -> None:
    rows = every_coalition(3)
    assert rows.tolist()[:3] == [[0, 0, 0], [1, 0, 0], [0, 1, 0]] and len(rows.unique(dim=0)) == 8
    glove = ((rows[:, 0] > 0) & (rows[:, 1:].sum(1) > 0)).double()  # one left glove, two right ones
    assert torch.allclose(shapley_matrix(rows) @ glove, torch.tensor([4, 1, 1]).double() / 6)
    product = rows.prod(1).double()
    assert torch.allclose(shapley_matrix(rows) @ product, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_exact_values_agree_with_those_of_captum_from_all_orders() -> None:
    from captum.attr import ShapleyValues

    model, (x, y) = small_cnn(), images()
    mask = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    mask = mask.repeat(1, 2, 1, 1)
    with torch.no_grad():
        theirs = ShapleyValues(model).attribute(x, target=y, feature_mask=mask)
    assert torch.allclose(explain("shapley", model, x, y), theirs / 32, atol=1e-6)


def test_kernel_shap_comes_to_the_exact_values_as_samples_grow() -> None:
    model, (x, y) = small_cnn(), images()
    exact = explain("shapley", model, x, y, grid=3)
    size = exact.abs().sum((1, 2, 3)).mean()
    errors = [
        (explain("kernel_shap", model, x, y, samples=samples) - exact).abs().sum((1, 2, 3)).mean() / size
        for samples in (12, 200, 510)  # 510 are all of them
    ]
    assert errors[0] > 2 * errors[1] > 1e-3 and errors[2] < 1e-5


def test_draws_from_the_kernel_estimate_the_values_that_weights_make_exact() -> None:
    rows = every_coalition(4)
    game = torch.randn(16, generator=fresh()).double()
    exact = shapley_matrix(rows) @ game
    ends = game[[0, -1]]
    inner = rows[1:-1]
    assert torch.allclose(additive_fit(inner, kernel_weights(inner))(torch.cat([ends, game[1:-1]])), exact)
    drawn = shapley_draws(4, 20001, rng=fresh())
    place = (drawn @ torch.tensor([1.0, 2, 4, 8])).long()
    assert len(drawn) == 20001 and place.min() > 0 and place.max() < 15
    found = additive_fit(drawn, torch.ones(20001).double())(torch.cat([ends, game[place]]))
    assert (found - exact).abs().max() < 0.02 and found.sum() == pytest.approx(float(ends[1] - ends[0]))


def test_lime_agrees_with_captum_on_the_same_coalitions() -> None:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    model, (x, y) = small_cnn(), images()
    drawn = (torch.rand(30, 9, generator=fresh()) < 0.5).float()
    rows = torch.arange(SIDE) * 3 // SIDE
    place = (rows[:, None] * 3 + rows).repeat(1, 2, 1, 1)
    kernel = similarity(drawn, 0.25)
    for i in range(2):
        turn = iter(drawn)
        known = {tuple(row.tolist()): float(weight) for row, weight in zip(drawn, kernel, strict=True)}
        lime = Lime(
            model,
            interpretable_model=SkLearnRidge(alpha=1.0),
            similarity_func=lambda a, b, z, known=known, **_: known[tuple(z[0].tolist())],
            perturb_func=lambda z, turn=turn, **_: next(turn)[None],
        )
        theirs = lime.attribute(x[i : i + 1], target=int(y[i]), feature_mask=place, n_samples=30)
        area = torch.bincount(place.flatten())[place]
        mine = explain("lime", model, x[i : i + 1], y[i : i + 1])
        assert torch.allclose(mine, theirs / area, atol=1e-5)


def test_a_regression_without_ridge_recovers_an_additive_game() -> None:
    drawn = (torch.rand(60, 4, generator=fresh()) < 0.5).float()
    values = 2 + drawn.double() @ torch.tensor([1.0, -2, 0.5, 0]).double()
    found = ridge_fit(drawn, similarity(drawn, 0.25), 0.0)(values)
    assert torch.allclose(found, torch.tensor([1.0, -2, 0.5, 0]).double(), atol=1e-9)
    assert similarity(torch.tensor([[1.0, 1], [1, 0], [0, 0]]), 0.25).tolist() == pytest.approx(
        [1.0, 2.718281828 ** (-((1 - 0.5**0.5) ** 2) * 8), 2.718281828**-8], rel=1e-6
    )
