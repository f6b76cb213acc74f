"""STRIP on networks whose entropies are known."""

import math

import pytest
import torch
from suspects import auroc, evidence, identity, linear, noise, pictures

from deconfound.detectors.evidence import ExampleDetector, InputDetector
from deconfound.detectors.strip import STRIP, entropy
from deconfound.errors import UserError

DATA, VAL = pictures(noise(12, 4), [0] * 12), pictures(noise(9, 4, seed=1), [0] * 9)


def test_entropy_is_in_bits() -> None:
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [math.log(0.5), math.log(0.25), math.log(0.25), -1e9], [1e4, 0, 0, 0]]
    )
    assert entropy(logits).tolist() == pytest.approx([2.0, 1.5, 0.0])


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("blend", ["add", "average"])
def test_a_network_that_knows_nothing_has_the_entropy_of_the_uniform_distribution(
    classes: int, blend: str
) -> None:
    score = STRIP(blend=blend).suspicion(evidence(identity(4, classes), DATA, VAL))
    assert score(DATA.x).tolist() == pytest.approx([-math.log2(classes)] * 12)


@pytest.mark.parametrize(("blend", "pixel"), [("add", 1.0), ("average", 0.6)])
def test_the_overlay_is_laid_over_as_the_blend_says(blend: str, pixel: float) -> None:
    model = linear([[0.0], [3.0]], [0.0, 0.0])
    given = evidence(model, pictures(torch.tensor([[204.0]]), [0]), pictures(torch.tensor([[102.0]]), [0]))
    p = 1 / (1 + math.exp(-3 * pixel))  # 0.8 under 0.4
    expected = p * math.log2(p) + (1 - p) * math.log2(1 - p)
    assert STRIP(blend=blend).suspicion(given)(given.data.x).item() == pytest.approx(expected, abs=1e-5)


def test_a_trigger_that_outvotes_every_overlay_is_found() -> None:
    # Pixel 0 at full brightness decides for class 1; otherwise pixels 1 and 2 are weighed against each other.
    model = linear([[0.0, 9.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]], [0.0, -150.0, 0.0])
    rows = noise(40, 4, spread=20.0)
    rows[:, 0] = 0
    stamped, val = rows.clone(), noise(20, 4, seed=1, spread=20.0)
    stamped[:, 0], val[:, 0] = 255, 0
    data = pictures(torch.cat([rows, stamped]), [0] * 80)
    given, mask = evidence(model, data, pictures(val, [0] * 20)), torch.arange(80) >= 40
    found = STRIP().examine(given)
    assert auroc(found.scores, mask) == 1.0 and found.flags[mask].all()
    assert isinstance(STRIP(), InputDetector) and isinstance(STRIP(), ExampleDetector)


def test_an_image_is_scored_alike_alone_and_in_company() -> None:
    model = linear([[1.0, -2.0, 3.0, 0.0], [0.0, 2.0, -1.0, 1.0]], [0.0, 0.3])
    x = pictures(noise(200, 4, seed=2), [0] * 200).x  # more than one batch
    score = STRIP(overlays=5).suspicion(evidence(model, DATA, VAL))
    alone = torch.cat([score(one[None]) for one in x])
    assert torch.allclose(score(x), alone, atol=1e-6) and score(x[:0]).shape == (0,)


def test_overlays_are_the_seed_s_and_no_more_than_there_are() -> None:
    model = linear([[1.0, -2.0, 3.0, 0.0], [0.0, 2.0, -1.0, 1.0]], [0.0, 0.3])
    few, again, other = (
        STRIP(overlays=2).suspicion(evidence(model, DATA, VAL, seed))(DATA.x) for seed in (0, 0, 1)
    )
    assert torch.equal(few, again) and not torch.equal(few, other)
    every, more = (STRIP(overlays=n).suspicion(evidence(model, DATA, VAL))(DATA.x) for n in (9, 99))
    assert torch.equal(every, more)


def test_overlays_are_held_out_images() -> None:
    with pytest.raises(UserError, match="held-out"):
        STRIP().suspicion(evidence(identity(4, 2), DATA))
