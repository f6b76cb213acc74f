"""ANP: the perturbation stays in its radius and is the worst one; masks stay in [0, 1]; what is cut."""

import pytest
import torch
from oracle_models import same, small_network
from repair_benches import bench, convolutional
from torch import nn
from torch.nn import functional as F

from deconfound.defenses.anp import ANP, NeuronPerturbation, cut, gated, gates, masks
from deconfound.defenses.batch_norms import batch_norms
from deconfound.defenses.repair import suspect
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, to_unit

IMAGES = bench().val
X, Y = to_unit(IMAGES.x), IMAGES.y


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_gated_network_answers_as_before_and_learns_its_masks_only() -> None:
    plain, model = convolutional(), gated(convolutional())
    assert torch.equal(model(X), plain(X))
    learns = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(learns) == 3 and all(name.endswith("weight.0.mask") for name in learns)
    assert {name: len(mask) for name, mask in masks(model).items()} == {
        "body.1": 3,
        "body.5": 4,
        "body.9": 5,
    }
    assert not any("noise" in name for name in model.state_dict())


def test_a_network_without_batch_norms_is_refused() -> None:
    bare = Classifier(nn.Flatten(), nn.Linear(16, 3), channels=1)
    with pytest.raises(UserError, match="anp: expected a network with batch norms"):
        gated(bare)


def test_a_gate_multiplies_scale_by_mask_plus_noise_and_shift_by_one_plus_noise() -> None:
    model = gated(convolutional())
    norm, plain = model.get_submodule("body.1"), convolutional().get_submodule("body.1")
    scale, shift = gates(model)[:2]
    scale.mask.data = torch.tensor([1.0, 0.5, 0.0])
    scale.noise, shift.noise = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.4, 0.0, -0.4])
    assert torch.allclose(norm.weight, plain.weight * torch.tensor([1.1, 0.3, 0.3]))  # type: ignore[arg-type, operator]
    assert torch.allclose(norm.bias, plain.bias * torch.tensor([1.4, 1, 0.6]))  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_perturbation_stays_within_its_radius(steps: int) -> None:
    model = gated(convolutional())
    NeuronPerturbation(ANP(eps=0.3, steps=steps)).perturb(model, X, Y, rng=rng())
    noise = torch.cat([gate.noise for gate in gates(model)])
    assert noise.abs().max() <= 0.3 and len(noise) == 24 and not noise.requires_grad
    assert (noise.abs() > 0.29).any()


def test_without_projection_it_reaches_beyond_and_up_to_twice_the_radius() -> None:
    model = gated(convolutional())
    NeuronPerturbation(ANP(eps=0.3, project=False)).perturb(model, X, Y, rng=rng())
    noise = torch.cat([gate.noise for gate in gates(model)]).abs()
    assert 0.3 < noise.max() <= 0.6 + 1e-6


def one_unit(scale: float) -> Classifier:
    """Logits (relu(scale * (1 + noise) * pixel), 0) of one pixel: the worst noise for class 0 is as low as can be."""
    norm = nn.BatchNorm1d(1, eps=0)
    norm.weight.data.fill_(scale)
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [0.0]])
    return Classifier(nn.Sequential(nn.Flatten(), norm, nn.ReLU()), head, channels=1).eval()


@pytest.mark.parametrize(("label", "expected"), [(0, -0.4), (1, 0.4)])
def test_the_step_goes_where_the_loss_grows(label: int, expected: float) -> None:
    model = gated(one_unit(2.0))
    perturbation = NeuronPerturbation(
        ANP(steps=2)
    )  # from anywhere in the ball two steps of half the radius each ...
    perturbation.perturb(model, torch.ones(5, 1, 1, 1), torch.full((5,), label), rng=rng())
    scale = gates(model)[0].noise.item()
    assert scale * expected > -0.16 and abs(scale) <= 0.4 + 1e-6
    one = NeuronPerturbation(ANP(steps=1))
    for seed in range(5):  # ... and one of a whole radius: never on the wrong side of the centre
        one.perturb(model, torch.ones(5, 1, 1, 1), torch.full((5,), label), rng=rng(seed))
        assert gates(model)[0].noise.item() * expected >= 0


def test_the_loss_weighs_clean_and_perturbed_cross_entropy() -> None:
    model = gated(convolutional())
    found = NeuronPerturbation(ANP(clean=0.3))(model, X, Y, rng=rng()).item()
    worst = F.cross_entropy(model(X), Y).item()  # the noise is still there
    NeuronPerturbation(ANP()).after_step(model)
    clean = F.cross_entropy(model(X), Y).item()
    assert found == pytest.approx(0.3 * clean + 0.7 * worst, rel=1e-5) and worst > clean


def test_after_a_step_masks_lie_in_the_unit_interval_and_the_noise_is_gone() -> None:
    model = gated(convolutional())
    for gate, value in zip(gates(model), (1.7, 1.0, -0.2, 1.0, 0.5, 1.0), strict=True):
        gate.mask.data.fill_(value)
        gate.noise = torch.full_like(gate.noise, 0.3)
    NeuronPerturbation(ANP()).after_step(model)
    assert [float(mask[0]) for mask in masks(model).values()] == [1, 0, 0.5]
    assert all((gate.noise == 0).all() for gate in gates(model))


def test_channels_up_to_the_threshold_lose_their_scale_and_keep_their_shift() -> None:
    model, plain = small_network(), small_network()
    found = {"body.2": torch.tensor([0.0, 0.2, 0.3, 0.30001, 1, 1, 1, 1])}
    assert cut(model, found, 0.3) == 3
    norm, before = model.get_submodule("body.2"), plain.get_submodule("body.2")
    assert norm.weight.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]  # type: ignore[union-attr, operator]
    assert same(norm.bias.detach(), before.bias.detach())  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("iterations", [1, 4, 5])
def test_masks_take_exactly_their_iterations(iterations: int) -> None:
    """12 fitted images in batches of 8: two steps an epoch, the last epoch may be half."""
    taken = []
    room = bench()
    real = room.fit

    def fit(*args: object, **options: object) -> int:
        taken.append(real(*args, **options))  # type: ignore[arg-type]
        return taken[-1]

    object.__setattr__(room, "fit", fit)
    ANP(iterations=iterations)(room)
    assert taken == [iterations]


def test_training_moves_masks_and_no_weight_and_the_result_is_the_start_but_for_scales() -> None:
    room = bench()
    done, start = ANP(iterations=30, tolerance=1.0, highest=0.9)(room), suspect(room)
    differ = [
        name
        for name, value in done.model.state_dict().items()
        if not torch.equal(value, start.state_dict()[name])
    ]
    assert done.notes["units"] == 12 and done.notes["threshold"] == "0.9"
    pruned = sum(int((norm.weight == 0).sum()) for norm in batch_norms(done.model).values())
    assert done.notes["units_pruned"] == pruned > 0
    assert differ and set(differ) <= {"body.1.weight", "body.5.weight", "body.9.weight"}


def test_the_threshold_stays_below_the_first_that_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    room, values = bench(), iter([0.8, 0.79, 0.72, 0.71, 0.8])
    monkeypatch.setattr("deconfound.defenses.anp.accuracy", lambda model, images: next(values))
    done = ANP(iterations=2, step=0.2, tolerance=0.1)(room)
    assert (
        done.notes["threshold"] == "0.2"
    )  # 0.72 is nine tenths of 0.8; 0.71 is less, and what follows does not count
    assert done.notes["held_accuracy_curve"] == "0:0.7900 0.2:0.7200 0.4:0.7100"


def test_where_every_threshold_costs_too_much_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    room, values = bench(), iter([0.8, 0.1])
    monkeypatch.setattr("deconfound.defenses.anp.accuracy", lambda model, images: next(values))
    done = ANP(iterations=2)(room)
    assert done.notes["threshold"] == "none" and done.notes["units_pruned"] == 0
    assert same(dict(done.model.state_dict()), dict(suspect(room).state_dict()))
