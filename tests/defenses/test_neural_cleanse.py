"""Neural Cleanse as a mitigation: unlearning the trigger of an accused class, and nothing where none is accused."""

from dataclasses import replace

import pytest
import torch
from oracle_models import same, tiny_images, workbench
from torch import nn
from torch.nn import functional as F

from deconfound.defenses.neural_cleanse import NeuralCleanse, Unlearning
from deconfound.defenses.workbench import Defended
from deconfound.detectors.inversion import Inversion, Inverted, stamp
from deconfound.detectors.neural_cleanse import NeuralCleanse as Scan
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.training import Trainer
from deconfound.types import Images

CLASSES, TARGET, SHORTCUT = 5, 2, 15
QUICK = Scan(inversion=Inversion(passes=40, batch_size=8, patience=2), threshold=9.0)


def shortcut() -> Classifier:
    """Class k reads three pixels of its own; class 2 also reads the last pixel, ten times as loud."""
    head = nn.Linear(16, CLASSES, bias=False)
    head.weight.data.zero_()
    for label in range(CLASSES):
        head.weight.data[label, 3 * label : 3 * label + 3] = 8.0
    head.weight.data[TARGET, SHORTCUT] = 80.0
    return Classifier(nn.Flatten(), head, channels=1)


def dark(count: int = 24) -> Images:
    """Noise, with the last pixel black, under the labels that the network gives."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 1, 4, 4), generator=rng, dtype=torch.uint8)
    x[..., -1, -1] = 0
    return Images(x, shortcut()(x.float() / 255).argmax(1))


def run(scan: Scan, epochs: int = 5) -> tuple[Defended, Trainer]:
    bench, _ = workbench(Recipe(epochs=epochs, batch_size=8, lr=0.2, schedule="constant"))
    trainer = Trainer(bench.data, dark(), bench.recipe, 0, torch.device("cpu"))
    return NeuralCleanse(scan=scan)(replace(bench, val=dark(), start=shortcut(), fit=trainer.fit)), trainer


def success(model: Classifier, done: Defended) -> float:
    """How often the reversed trigger of the target works."""
    x = stamp(dark().x.float() / 255, done.parts["mask"][TARGET], done.parts["pattern"][TARGET])
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == TARGET).double().mean())


def test_an_accused_trigger_is_unlearnt_on_the_held_out_images() -> None:
    done, trainer = run(QUICK, epochs=30)
    assert done.notes["accused"] == str(TARGET) and done.notes["unlearnt"] == 1
    assert success(shortcut(), done) > 0.9 and success(done.model, done) < 0.5
    assert [record["steps"] for record in trainer.history["model"]] == [
        3
    ] * 30  # of 24 images in batches of 8
    assert done.parts["mask"].shape == done.parts["pattern"].shape == (CLASSES, 1, 4, 4)
    assert done.parts["anomaly"].argmax() == TARGET and not done.trace


def test_a_network_that_nobody_accuses_comes_back_as_it_is() -> None:
    done, trainer = run(replace(QUICK, threshold=1e9))
    assert same(dict(done.model.state_dict()), dict(shortcut().state_dict())) and not trainer.history
    assert done.notes["accused"] == "none" and done.notes["unlearnt"] == 0


def test_the_seed_decides_everything() -> None:
    first, second = (dict(run(QUICK)[0].model.state_dict()) for _ in range(2))
    assert same(first, second)


def test_there_must_be_a_network_to_scan() -> None:
    assert NeuralCleanse.needs == ("starts_from",)
    with pytest.raises(UserError, match="starts_from"):
        NeuralCleanse()(workbench(Recipe())[0])


# What is trained on


def triggers() -> Inverted:
    """Class k writes the value (k + 1) / 10 over the whole image."""
    pattern = torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 1, 4, 4) / 10
    return Inverted(torch.ones(3, 1, 4, 4), pattern, torch.ones(3))


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.2, 2), (12, 0.2, 2), (2, 0.2, 1), (4, 1.0, 4)]
)
def test_a_share_of_the_batch_carries_the_trigger_and_at_least_one_image(
    count: int, share: float, expected: int
) -> None:
    x = tiny_images(count).x.float() / 255
    before = x.clone()
    stamped = Unlearning(triggers(), torch.tensor([1]), share).stamped(x, rng=fresh())
    changed = (stamped != x).flatten(1).any(1)
    assert int(changed.sum()) == expected and torch.equal(x, before)
    assert torch.equal(stamped[changed], torch.full((expected, 1, 4, 4), 0.2))


def test_stamped_images_take_the_triggers_of_all_accused_classes_and_of_no_other() -> None:
    stamped = Unlearning(triggers(), torch.tensor([0, 2]), 1.0).stamped(torch.zeros(40, 1, 4, 4), rng=fresh())
    assert stamped[:, 0, 0, 0].unique().tolist() == pytest.approx([0.1, 0.3])


def test_labels_are_the_true_ones() -> None:
    model, data = shortcut(), dark()
    x, objective = data.x.float() / 255, Unlearning(triggers(), torch.tensor([1]), 0.2)
    loss = objective(model, x, data.y, rng=fresh())
    assert torch.equal(loss, F.cross_entropy(model(objective.stamped(x, rng=fresh())), data.y))
