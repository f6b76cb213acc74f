"""Scenes: counts, seeds, and the causal graph that they promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import binomtest, chi2_contingency

from deconfound.data.scenes import SHAPES, Scenes
from deconfound.types import Source, Split

CACHE = Path("never-made")
PLAIN = {"classes": 10, "train": 40, "test": 60, "noise": 0.0, "clutter": 0, "correlation": 0.5}


def fetch(**parameters: object) -> Source:
    return Scenes(**(PLAIN | parameters)).fetch(CACHE)  # type: ignore[arg-type]


def test_scenes_have_the_promised_shapes_types_and_counts() -> None:
    source = fetch(classes=7, train=30, test=20)
    for split, count in ((source.train, 30), (source.test, 20)):
        assert split.images.x.shape == (count, 3, 32, 32) and split.images.x.dtype == torch.uint8
        assert split.images.y.shape == (count,) and split.images.y.dtype == torch.int64
        assert split.extra["mask"].shape == (count, 32, 32) and split.extra["mask"].dtype == bool
        assert split.extra["style"].shape == (count,) and split.extra["style"].dtype == np.int64
        counts = np.bincount(split.images.y, minlength=7)
        assert counts.min() == count // 7 and counts.max() == count // 7 + 1
    assert source.classes == tuple(SHAPES)[:7]
    assert Scenes(classes=7).expects == ((3, 32, 32), 7)
    assert not CACHE.exists()


def everything(split: Split) -> list[bytes]:
    arrays = [split.images.x.numpy(), split.images.y.numpy(), *split.extra.values()]
    return [array.tobytes() for array in arrays]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = fetch(), fetch(), fetch(seed=1)
    for one, two, three in zip(first[:2], again[:2], other[:2], strict=True):
        assert everything(one) == everything(two)  # type: ignore[arg-type]
        assert not set(everything(one)) & set(everything(three))  # type: ignore[arg-type]


def test_train_and_test_share_no_picture() -> None:
    source = fetch(train=60, test=60)
    train = {picture.numpy().tobytes() for picture in source.train.images.x}
    assert len(train) == 60
    assert not train & {picture.numpy().tobytes() for picture in source.test.images.x}


def by_contrast(name: str, **parameters: object) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel moves (N, 32, 32) when the object alone gets brighter or darker, and the masks.

    Contrast is the brightness of the object against the ground; it moves no other draw.
    """
    pictures = []
    for contrast in (0.2, 0.4):
        split = fetch(contrast=contrast, **parameters).test
        pictures.append(split.images.x.numpy() if name == "x" else split.extra[name])
    moved = np.abs(pictures[1].astype(int) - pictures[0].astype(int)).mean(1)
    return moved, split.extra["mask"]


@pytest.mark.parametrize("name", ["x", "x_do_style"])
def test_the_mask_is_where_the_object_is(name: str) -> None:
    moved, mask = by_contrast(name)
    peak = moved.max((1, 2), keepdims=True)
    assert (peak > 20).all()  # levels of grey
    certain = np.abs(moved - peak / 2) > 1.5  # the edge is soft: half covered pixels may fall on either side
    assert certain.mean() > 0.99
    assert np.array_equal((moved > peak / 2)[certain], mask[certain])
    assert mask.any((1, 2)).all() and not mask.all((1, 2)).any()


def test_the_mask_is_the_shape_of_the_label() -> None:
    source = fetch(classes=2, test=40, turn=0.0, size=0.6)
    for label, name in enumerate(("disk", "triangle")):
        for mask in source.test.extra["mask"][source.test.images.y.numpy() == label]:
            rows, columns = np.nonzero(mask)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            filled = mask.sum() / (height * width)
            expected = np.pi / 4 if name == "disk" else 1 / 2  # share of its bounding box
            assert filled == pytest.approx(expected, abs=0.08)


def test_size_is_the_radius_of_the_object() -> None:
    small, large = (fetch(classes=2, size=size).test.extra["mask"].sum((1, 2)).mean() for size in (0.25, 0.5))
    assert large / small == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_style_equals_the_label_at_the_stated_rate(correlation: float) -> None:
    for split in fetch(classes=4, train=400, test=400, correlation=correlation)[:2]:
        assert isinstance(split, Split)
        equal = int((split.extra["style"] == split.images.y.numpy()).sum())
        rate = correlation + (1 - correlation) / 4
        assert equal == 400 if correlation == 1 else binomtest(equal, 400, rate).pvalue > 1e-3


def test_do_style_moves_the_style_alone_and_makes_it_independent_of_the_label() -> None:
    source = fetch(classes=4, test=400, correlation=0.9, noise=0.05)
    split, extra = source.test, source.test.extra
    labels, free, moved = split.images.y.numpy(), extra["style_do"], extra["x_do_style"]
    assert moved.dtype == np.uint8 and moved.shape == split.images.x.shape
    table = np.array([[((labels == a) & (free == b)).sum() for b in range(4)] for a in range(4)])
    assert chi2_contingency(table).pvalue > 1e-3
    assert table.sum() == 400
    stays = free == extra["style"]
    assert np.array_equal(moved[stays], split.images.x.numpy()[stays])  # the same object, place and noise
    assert (moved[~stays] != split.images.x.numpy()[~stays]).any((1, 2, 3)).all()
    assert 0 < stays.sum() < 400


def test_without_correlation_there_is_no_intervention_to_show() -> None:
    assert fetch(correlation=0).test.extra.keys() == {"mask", "style"}
    assert fetch().train.extra.keys() == {"mask", "style"}


def test_style_shows_in_the_ground() -> None:
    split = fetch(classes=4, train=200).train
    ground = ~split.extra["mask"]
    colours = np.array(
        [picture[:, where].mean(1) for picture, where in zip(split.images.x.numpy(), ground, strict=True)]
    )
    means = np.array([colours[split.extra["style"] == style].mean(0) for style in range(4)])
    nearest = np.linalg.norm(colours[:, None] - means[None], axis=2).argmin(1)
    assert (nearest == split.extra["style"]).mean() > 0.9


def test_noise_has_the_stated_deviation() -> None:
    quiet, noisy = fetch(noise=0.0).test.images.x, fetch(noise=0.1).test.images.x
    assert (noisy.float() - quiet.float()).std().item() / 255 == pytest.approx(0.1, rel=0.05)


def test_clutter_adds_distractors_outside_the_mask() -> None:
    ground = [fetch(clutter=clutter).test for clutter in (0, 5)]
    textures = [
        np.mean(
            [
                picture[:, ~mask].std()
                for picture, mask in zip(s.images.x.numpy(), s.extra["mask"], strict=True)
            ]
        )
        for s in ground
    ]
    assert textures[1] > textures[0] + 1


@pytest.mark.parametrize(
    "wrong", [{"classes": 1}, {"classes": 11}, {"correlation": 1.1}, {"contrast": 0}, {"size": 1}]
)
def test_impossible_scenes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        fetch(**wrong)
