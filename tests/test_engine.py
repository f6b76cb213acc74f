"""The engine that attacks: passes counted by hand, kills survived to the bit, speed that changes no answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import Killed
from oracle_models import linear_problem, same, small_network, snapshot
from torch import Tensor, nn
from zoo import GradientKiller, Refusing

from deconfound import engine as engine_module
from deconfound.attacks.apgd import APGD
from deconfound.attacks.autoattack import AutoAttack
from deconfound.attacks.eot import EOT
from deconfound.attacks.fgsm import FGSM
from deconfound.attacks.pgd import PGD
from deconfound.attacks.square import Square
from deconfound.engine import Engine, Notebook, Speed
from deconfound.errors import AttackError
from deconfound.models.classifier import predict
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.speed import Pooling, folded
from deconfound.models.timm_models import TimmModel
from deconfound.rng import generator, global_seed
from deconfound.types import Images


def network(seed: int = 0) -> nn.Module:
    """A small CNN whose batch norms have statistics and weights of their own."""
    with global_seed(generator(seed, "init")):
        model = SmallCNN(widths=(4, 6), hidden=8)((1, 8, 8), 4)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
        model.train()
        with torch.no_grad():
            for _ in range(30):  # statistics of noise images, so that every class is said of some of them
                model(torch.rand(64, 1, 8, 8))
            model.head.bias -= model.eval()(torch.rand(256, 1, 8, 8)).mean(0)
    return model


def pictures(count: int = 40, seed: int = 0) -> tuple[nn.Module, Images]:
    """A network and images that it gets right, all but the last five."""
    model = network()
    x = torch.randint(0, 256, (count, 1, 8, 8), generator=generator(seed, "x")).to(torch.uint8)
    y = predict(model, x).argmax(1)
    y[-5:] = (y[-5:] + 1) % 4
    return model, Images(x, y)


def everything(engine: Engine) -> np.ndarray:
    return np.flatnonzero(engine.clean)


# Passes


def test_passes_are_counted_in_images_and_the_broken_ones_leave_the_batch() -> None:
    model, x, _ = linear_problem()
    x = (x * 255).round().to(torch.uint8)
    images = Images(x, (model.margin(x.float() / 255) > 0).long())
    engine = Engine(model, images, 0)
    unbreakable = PGD(eps=1e-6, steps=7)
    _, (cost,) = engine.standing(unbreakable, "weak", everything(engine))
    assert (cost.attacked, cost.broken, cost.forward, cost.backward) == (64, 0, 7 * 64, 7 * 64)
    _, (cost,) = engine.standing(PGD(eps=1.0, steps=50, random_start=False), "strong", everything(engine))
    assert cost.broken == 64
    assert cost.forward < 3 * 64  # one look at the image itself, and one at the edge of the box
    _, (cost,) = engine.standing(FGSM(eps=0.01), "one", everything(engine))
    assert (cost.forward, cost.backward) == (64, 64)


def test_an_attack_that_averages_gradients_pays_for_each_sample() -> None:
    model, images = pictures()
    engine = Engine(model, images, 0)
    averaged = EOT(attack={"kind": "pgd", "eps": 1e-6, "steps": 3}, samples=4)
    _, (cost,) = engine.standing(averaged, "eot", everything(engine))
    assert (cost.forward, cost.backward) == (3 * 4 * 35, 3 * 4 * 35)


def test_a_black_box_attack_takes_no_gradient() -> None:
    model, images = pictures()
    engine = Engine(model, images, 0)
    _, (cost,) = engine.standing(Square(eps=1e-6, queries=10), "square", everything(engine))
    assert cost.backward == 0 and 0 < cost.forward <= 11 * 35


def test_an_ensemble_is_counted_member_by_member_each_on_what_is_left() -> None:
    model, images = pictures()
    engine = Engine(model, images, 0)
    ensemble = AutoAttack(eps=0.05, steps=5, queries=20)
    left, costs = engine.standing(ensemble, "aa", everything(engine))
    assert [cost.member for cost in costs] == list(ensemble.members())
    assert costs[0].attacked == 35
    for before, after in zip(costs, costs[1:], strict=False):
        assert after.attacked == before.attacked - before.broken
    assert len(left) == costs[-1].attacked - costs[-1].broken


# Resuming


class Dying(nn.Module):
    """A network that is killed at its n-th forward pass."""

    def __init__(self, inner: nn.Module, after: int) -> None:
        super().__init__()
        self.inner, self.left = inner, after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Killed
        logits: Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize(
    "attack", [PGD(eps=0.03, steps=5, restarts=2), AutoAttack(eps=0.03, steps=4, queries=30)]
)
def test_an_evaluation_killed_in_the_middle_of_an_attack_goes_on_to_the_same_bits(
    attack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "batch_size", lambda x: 8)
    model, images = pictures()
    whole = Engine(model, images, 0, speed=Speed(fold=False))
    expected = whole.standing(attack, "a", everything(whole))
    known = [0]  # batches in the notes at the beginning of each attempt
    found = None
    for after in range(16, 400, 16):  # every attempt dies somewhere else, and begins where the last one died
        notebook = Notebook(tmp_path / "notes.json", "key")
        known.append(len(notebook.done))
        engine = Engine(Dying(model, after), images, 0, speed=Speed(fold=False), notebook=notebook)
        try:
            found = engine.standing(attack, "a", everything(whole))
            break
        except Killed:
            continue
    assert found is not None and len(set(known)) >= 3 and known == sorted(known)
    assert np.array_equal(found[0], expected[0]) and found[1] == expected[1]


def test_notes_of_another_evaluation_are_not_read_and_those_of_a_finished_one_are_gone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.json"
    Notebook(path, "one").write("a", {"stands": ""})
    assert Notebook(path, "one").get("a") == {"stands": ""}
    assert Notebook(path, "two").get("a") is None
    Notebook(path, "one").forget()
    assert not path.exists()
    Notebook(None).write("a", 1)


def test_the_same_name_with_other_parameters_is_another_attack_in_the_notes() -> None:
    model, images = pictures()
    engine = Engine(model, images, 0)
    weak, _ = engine.standing(PGD(eps=1e-6), "pgd", everything(engine))
    strong, _ = engine.standing(PGD(eps=0.5, steps=50, score="margin"), "pgd", everything(engine))
    assert len(weak) == 35 and len(strong) < 35


# Speed that changes no answer


@pytest.mark.parametrize("make", [network, lambda: TimmModel(name="test_resnet")((3, 8, 8), 4).eval()])
def test_a_folded_network_has_the_same_logits_and_no_batch_norm(make: Any) -> None:
    model = make()
    channels = model.mean.numel()
    x = torch.rand(6, channels, 8, 8, generator=generator(0, "fold"))
    before = snapshot(model)
    light = folded(model, x[:4])
    assert light is not model and same(snapshot(model), before)
    assert not [m for m in light.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        assert torch.allclose(light(x), model(x), rtol=1e-4, atol=1e-4)
    gradients = []
    for net in (light, model):
        z = x.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(net(z)[:, 0].sum(), z)[0])
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_pooling_in_another_memory_order_has_the_same_values_and_gradients() -> None:
    rng = generator(0, "pool")
    x = torch.randint(
        0, 3, (5, 4, 7, 9), generator=rng
    ).float()  # many ties: they go to the first of the window
    for form in (torch.contiguous_format, torch.channels_last):
        found = []
        for pool in (nn.MaxPool2d(2), Pooling(nn.MaxPool2d(2))):
            z = x.clone(memory_format=form).requires_grad_(True)
            pooled = pool(z)
            weight = torch.arange(pooled.numel()).view_as(pooled).float()
            found.append((pooled.detach(), torch.autograd.grad((pooled * weight).sum(), z)[0]))
            assert pooled.is_contiguous(memory_format=form)
        assert same(*found)


class Twice(nn.Module):
    """One convolution, used before and after its batch norm: folding would change the second use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        nn.init.constant_(self.norm.running_var, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x))).flatten(1)


class Drawing(nn.Module):
    """Noise on the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + torch.randn_like(logits)


@pytest.mark.parametrize("model", [Twice(), Drawing(), small_network().train(), nn.Flatten()])
def test_a_network_that_cannot_be_folded_is_left_as_it_is(model: nn.Module) -> None:
    model.eval()
    side = 4 if isinstance(model, type(small_network())) else 8
    x = torch.rand(3, 1, side, side, generator=generator(0, "x"))
    light = folded(model, x)
    if isinstance(model, type(small_network())):  # linear, then batch norm: this one folds
        assert torch.allclose(light(x), model(x), atol=1e-5)
    else:
        assert light is model


@pytest.mark.parametrize("speed", [Speed(fold=False), Speed(channels_last=True)])
def test_options_for_speed_leave_the_same_images_standing(speed: Speed) -> None:
    model, images = pictures(200)
    verdicts = []
    for option in (Speed(), speed):
        engine = Engine(model, images, 0, speed=option)
        verdicts.append([engine.standing(attack, "a", everything(engine))[0] for attack in SOME])
    for one, other in zip(*verdicts, strict=True):
        assert len(np.setxor1d(one, other)) <= 1  # an image on the very boundary may fall to either side


SOME = [PGD(eps=0.02, steps=10), APGD(eps=0.02, steps=10), FGSM(eps=0.05, norm="l2")]


def test_small_pictures_are_attacked_in_larger_batches_of_as_many_pixels() -> None:
    sizes = {side: engine_module.batch_size(torch.zeros(1, 3, side, side)) for side in (8, 16, 28, 32, 224)}
    assert sizes == {8: 4096, 16: 1024, 28: 256, 32: 256, 224: 256}


def test_channels_come_last_for_pictures_on_a_cpu_unless_told_otherwise() -> None:
    small, large = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 32, 32)
    assert [Speed().last(x) for x in (small, large)] == [False, True]
    assert [Speed(channels_last=False).last(x) for x in (small, large)] == [False, False]
    assert [Speed(channels_last=True).last(x) for x in (small, large, large[0])] == [True, True, False]


# Models that do not play along


def test_a_model_without_a_gradient_stands_and_the_cost_says_why() -> None:
    model, images = pictures()
    engine = Engine(GradientKiller(model), images, 0)
    left, (cost,) = engine.standing(PGD(eps=1.0), "pgd", everything(engine))
    assert len(left) == 35 and cost.broken == 0
    assert cost.fault.startswith("model: expected logits that depend on the images")
    left, (cost,) = engine.standing(Square(eps=1.0, queries=50), "square", everything(engine))
    assert len(left) < 35 and not cost.fault


def test_a_model_that_raises_stands_and_the_cost_says_why() -> None:
    model, images = pictures()
    engine = Engine(Refusing(model), images, 0)
    left, (cost,) = engine.standing(PGD(eps=0.5), "pgd", everything(engine))
    assert len(left) == 35
    assert cost.fault == "model: expected logits, got ValueError: adversarial input detected"


class Scaled(nn.Module):
    """Logits multiplied by a number."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return torch.where(x.flatten(1).amax(1, keepdim=True) > 0, logits * self.factor, logits)


def test_a_model_that_returns_nan_is_an_error_that_says_so() -> None:
    model, images = pictures()
    engine = Engine(model, images, 0)
    engine.light.model = Scaled(model, float("nan"))
    with pytest.raises(AttackError, match="model: expected finite logits, got NaN or infinity for 35 of 35"):
        engine.standing(PGD(eps=0.1), "pgd", everything(engine))


def test_an_evaluation_of_nothing_is_empty() -> None:
    model, _ = pictures()
    engine = Engine(model, Images(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0).long()), 0)
    left, (cost,) = engine.standing(PGD(eps=0.1), "pgd", everything(engine))
    assert len(left) == 0 and (cost.attacked, cost.forward) == (0, 0)


def test_notes_are_json_that_a_person_can_read(tmp_path: Path) -> None:
    model, images = pictures()
    notebook = Notebook(tmp_path / "notes.json", "key")
    engine = Engine(model, images, 0, notebook=notebook)
    engine.standing(PGD(eps=0.1), "pgd", everything(engine))
    found = json.loads((tmp_path / "notes.json").read_text())
    assert found["key"] == "key" and len(found["done"]) == 1
