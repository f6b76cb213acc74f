"""Patches, drawn by hand: # is ink 255, o is ink 0, . is the picture."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.poisons.triggers import Patch

PAPER = 77
INK = {"#": 255, "o": 0, ".": PAPER}

DRAWINGS = [
    ({"size": 2, "margin": 0, "corner": "bottom_right", "pattern": "white"}, ".... .... ..## ..##"),
    ({"size": 2, "margin": 0, "corner": "bottom_left", "pattern": "white"}, ".... .... ##.. ##.."),
    ({"size": 2, "margin": 0, "corner": "top_right", "pattern": "white"}, "..## ..## .... ...."),
    ({"size": 2, "margin": 0, "corner": "top_left", "pattern": "white"}, "##.. ##.. .... ...."),
    ({"size": 2, "margin": 0, "corner": "bottom_right"}, ".... .... ..#o ..o#"),
    ({"size": 2, "margin": 0, "corner": "top_right"}, "..#o ..o# .... ...."),
    ({"size": 1, "margin": 1, "corner": "bottom_left"}, ".... .... .#.. ...."),
    ({"size": 4, "margin": 0, "pattern": "checkerboard"}, "#o#o o#o# #o#o o#o#"),
    ({"size": 2, "margin": 1, "corner": "bottom_right"}, "..... ..... ..#o. ..o#. ....."),
    ({"size": 2, "margin": 1, "corner": "bottom_left"}, "..... ..... .#o.. .o#.. ....."),
    ({"size": 2, "margin": 1, "corner": "top_right"}, "..... ..#o. ..o#. ..... ....."),
    ({"size": 2, "margin": 1, "corner": "top_left"}, "..... .#o.. .o#.. ..... ....."),
    ({"size": 3, "margin": 0, "corner": "top_right"}, "..#o# ..o#o ..#o# ..... ....."),
    ({"size": 3, "margin": 0, "corner": "bottom_left", "pattern": "white"}, "..... ..... ###.. ###.. ###.."),
    ({}, "..... .#o#. .o#o. .#o#. ....."),
    ({"size": 2, "margin": 1}, "...... ...#o. ...o#. ......"),  # wider than high
]


def drawn(picture: str) -> torch.Tensor:
    return torch.tensor([[INK[mark] for mark in row] for row in picture.split()], dtype=torch.uint8)


@pytest.mark.parametrize(("patch", "picture"), DRAWINGS)
def test_a_patch_looks_as_drawn_in_every_image_and_channel(patch: dict[str, Any], picture: str) -> None:
    expected = drawn(picture).expand(3, 2, -1, -1)
    x = torch.full_like(expected, PAPER).contiguous()
    assert torch.equal(Patch(**patch)(x), expected)
    assert (x == PAPER).all()  # the argument is left alone


@given(st.integers(0, 2**32), st.sampled_from([patch for patch, _ in DRAWINGS]))
def test_a_trigger_is_a_function_of_the_image_alone(seed: int, patch: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (6, 3, 6, 5), generator=rng, dtype=torch.uint8)
    order = torch.randperm(6, generator=rng)
    stamp = Patch(**patch)
    stamped = stamp(x)
    assert stamped.dtype == torch.uint8 and stamped.shape == x.shape
    assert torch.equal(stamp(x[order]), stamped[order])
    assert torch.equal(stamp(stamped), stamped)
    assert torch.equal(stamp(x[:0]), x[:0])
    outside = stamp(torch.full_like(x, PAPER)) == PAPER
    assert torch.equal(stamped[outside], x[outside])


@pytest.mark.parametrize("corner", ["bottom_right", "bottom_left", "top_right", "top_left"])
@given(size=st.integers(1, 6), margin=st.integers(0, 4), height=st.integers(1, 7), width=st.integers(1, 7))
def test_a_patch_fits_exactly_when_all_its_pixels_are_in_the_picture(
    corner: Any, size: int, margin: int, height: int, width: int
) -> None:
    patch = Patch(size=size, margin=margin, corner=corner, pattern="white")
    room = min(height, width) - margin
    assert patch.fits(height, width) == (size <= room)
    if patch.fits(height, width):
        inked = patch(torch.zeros(1, 1, height, width, dtype=torch.uint8)) == 255
        assert int(inked.sum()) == size * size
