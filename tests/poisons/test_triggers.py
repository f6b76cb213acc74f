"""Patches, drawn by hand: # is ink 255, o is ink 0, . is the picture. And the arithmetic that triggers share."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import idct

from deconfound.poisons.triggers import Patch, Square, added, cosines, mixed, pixels

PAPER = 77
INK = {"#": 255, "o": 0, ".": PAPER}
GRID = {"size": 3, "margin": 0, "pattern": "grid"}
ALL = {"size": 2, "margin": 0, "four_corners": True}

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
    (GRID, "..... ..... ..oo# ..o#o ..#o#"),  # section 3.1 of the specification
    ({**GRID, "corner": "top_left"}, "oo#.. o#o.. #o#.. ..... ....."),
    (ALL, "#oo# o##o o##o #oo#"),
    (
        {**GRID, "four_corners": True},
        "#o##o# o#oo#o #oooo# #oooo# o#oo#o #o##o#",
    ),
    ({"size": 1, "margin": 1, "four_corners": True}, "...... .#..#. ...... .#..#. ......"),
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
def test_a_patch_is_a_function_of_the_image_alone(seed: int, patch: dict[str, Any]) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (6, 3, 7, 6), generator=rng, dtype=torch.uint8)
    order = torch.randperm(6, generator=rng)
    stamp = Patch(**patch)
    stamped = stamp(x)
    assert stamped.dtype == torch.uint8 and stamped.shape == x.shape
    assert torch.equal(stamp(x[order]), stamped[order])
    assert torch.equal(stamp(stamped), stamped)
    assert torch.equal(stamp(x[:0]), x[:0])
    outside = stamp(torch.full_like(x, PAPER)) == PAPER
    assert torch.equal(stamped[outside], x[outside])


@pytest.mark.parametrize("pattern", ["white", "checkerboard", "grid"])
@pytest.mark.parametrize("corner", ["bottom_right", "bottom_left", "top_right", "top_left"])
def test_a_flipped_picture_carries_the_same_patches_in_four_corners(pattern: Any, corner: Any) -> None:
    x = torch.full((1, 1, 9, 8), PAPER, dtype=torch.uint8)
    stamped = Patch(size=3, margin=1, pattern=pattern, corner=corner, four_corners=True)(x)
    single = Patch(size=3, margin=1, pattern=pattern, corner=corner)(x)
    assert torch.equal(stamped.flip(-1), stamped) and torch.equal(stamped.flip(-2), stamped)
    assert torch.equal(stamped[single != PAPER], single[single != PAPER])
    assert int((stamped != PAPER).sum()) == 4 * 9


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


@given(size=st.integers(1, 4), margin=st.integers(0, 3), height=st.integers(1, 9), width=st.integers(1, 9))
def test_four_patches_fit_exactly_when_they_do_not_overlap(
    size: int, margin: int, height: int, width: int
) -> None:
    patch = Patch(size=size, margin=margin, pattern="white", four_corners=True)
    if patch.fits(height, width):
        inked = patch(torch.zeros(1, 1, height, width, dtype=torch.uint8)) == 255
        assert int(inked.sum()) == 4 * size * size
    else:
        assert 2 * (size + margin) > min(height, width)


def test_a_square_that_does_not_fit_is_a_fault_under_the_given_key() -> None:
    expected = ["there: expected a patch inside 8 x 9 pixels, got 6 pixels and margin 3"]
    assert Square(size=6, margin=3).faults((1, 8, 9), "there") == expected
    assert Square(size=5, margin=3).faults((1, 8, 9), "there") == []
    assert Square(size=6, margin=3).faults(None, "there") == []


def test_grey_values_are_clipped_and_rounded_before_the_cast() -> None:
    values = torch.tensor([-300.0, -0.6, 0.4, 0.6, 254.6, 255.4, 300.0, 700.0], dtype=torch.float64)
    assert pixels(values).tolist() == [0, 0, 0, 1, 255, 255, 255, 255]


def test_what_is_added_stays_bright_where_a_cast_would_wrap() -> None:
    x = torch.tensor([[[[0, 10, 250, 255]]]], dtype=torch.uint8)
    pattern = torch.tensor([[[-20, -20, 20, 20]]], dtype=torch.int16)
    assert added(pattern)(x).tolist() == [[[[0, 0, 255, 255]]]]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 10))
def test_a_mixture_is_the_rounded_weighted_mean(left: int, right: int, tenths: int) -> None:
    x = torch.full((1, 1, 1, 1), left, dtype=torch.uint8)
    found = int(mixed(x, torch.full((1, 1, 1), right, dtype=torch.uint8), tenths / 10))
    assert abs(10 * found - ((10 - tenths) * left + tenths * right)) <= 5


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_cosines_are_the_rows_of_the_orthonormal_transform(size: int) -> None:
    basis = torch.stack([cosines(size, k) for k in range(size)]).numpy()
    assert np.allclose(basis, idct(np.eye(size), norm="ortho"), atol=1e-12)
