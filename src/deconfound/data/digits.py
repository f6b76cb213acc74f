"""Digits: 1,797 scans of handwriting, 8 x 8 pixels, ten classes, bundled with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), the test part.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from deconfound.data.splits import stratified, take
from deconfound.fields import Count, Natural, hyperparameters
from deconfound.types import Images, Source, Split

TOTAL = 1797


@hyperparameters
class Digits:
    """test: how many scans form the test split, stratified; seed: which ones."""

    test: Annotated[Count, Field(ge=10, le=TOTAL - 100)] = 500
    seed: Natural = 0

    @property
    def expects(self) -> tuple[tuple[int, int, int] | None, int | None]:
        """Shape (C, H, W) and number of classes."""
        return (1, 8, 8), 10

    def fetch(self, cache: Path) -> Source:
        """x (N, 1, 8, 8): the scans' values 0..16 spread over 0..255; no network, `cache` is not used."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        ink = bunch.images.astype(np.int64)
        x = torch.from_numpy(((ink * 255 + 8) // 16).astype(np.uint8)).unsqueeze(1)
        whole = Split(Images(x, torch.from_numpy(bunch.target.astype(np.int64))))
        train, test = stratified(whole.images.y, self.test, seed=self.seed, purpose="digits/test")
        return Source(take(whole, train), take(whole, test), tuple(str(name) for name in bunch.target_names))
