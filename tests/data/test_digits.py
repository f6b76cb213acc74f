"""The bundled digits come out as scikit-learn has them, on the scale of bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from deconfound.data.digits import Digits
from deconfound.types import Source


@pytest.fixture(scope="module")
def source() -> Source:
    return Digits().fetch(Path("never-made"))


def test_digits_have_the_promised_shapes_and_types(source: Source) -> None:
    for split, count in ((source.train, 1297), (source.test, 500)):
        assert split.images.x.shape == (count, 1, 8, 8) and split.images.x.dtype == torch.uint8
        assert split.images.y.shape == (count,) and split.images.y.dtype == torch.int64
    assert source.classes == tuple("0123456789")
    assert Digits().expects == ((1, 8, 8), 10)
    assert not Path("never-made").exists()


def test_each_level_of_ink_becomes_the_nearest_byte(source: Source) -> None:
    exact = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    found = torch.cat([source.train.images.x, source.test.images.x])
    assert np.unique(found.numpy()).tolist() == exact


def test_both_splits_together_are_every_scan_once_with_its_label(source: Source) -> None:
    bunch = load_digits()

    def rows(images: np.ndarray, labels: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(
            map(tuple, np.column_stack([images.reshape(len(images), -1), labels]).astype(int).tolist())
        )

    x = torch.cat([source.train.images.x, source.test.images.x]).numpy()
    y = torch.cat([source.train.images.y, source.test.images.y]).numpy()
    assert rows(np.rint(x / 255 * 16), y) == rows(bunch.images, bunch.target)


def test_the_test_split_is_stratified_and_moves_with_its_seed(source: Source) -> None:
    shares = torch.bincount(torch.from_numpy(load_digits().target)) * 500 / 1797
    assert ((torch.bincount(source.test.images.y) - shares).abs() < 1).all()
    again, other = Digits().fetch(Path()), Digits(seed=1).fetch(Path())
    assert torch.equal(again.test.images.x, source.test.images.x)
    assert not torch.equal(other.test.images.x, source.test.images.x)


@pytest.mark.parametrize("test", [0, 9, 1698, True, 1.5])
def test_a_test_split_that_leaves_too_little_is_refused(test: object) -> None:
    with pytest.raises(ValidationError):
        Digits(test=test)  # type: ignore[arg-type]
