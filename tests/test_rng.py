"""Seeds: repeatable, apart from each other, and without a trace on the global generators."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deconfound.rng import derive, generator, global_seed, numpy_generator

seeds = st.integers(0, 2**31)
purposes = st.lists(st.text("abc_", min_size=1) | st.integers(0, 99), min_size=1, max_size=3)


def test_a_seed_is_the_hash_of_its_purpose() -> None:
    whole = int(hashlib.sha256(b"3/batches/model/0").hexdigest(), 16)
    assert derive(3, "batches", "model", 0) == whole >> (256 - 63)


@given(seeds, purposes)
def test_a_derived_seed_fits_a_torch_generator(seed: int, purpose: list[str | int]) -> None:
    assert 0 <= derive(seed, *purpose) < 2**63
    assert torch.equal(
        torch.rand(3, generator=generator(seed, *purpose)), torch.rand(3, generator=generator(seed, *purpose))
    )


def test_every_seed_and_every_purpose_has_its_own_stream() -> None:
    names = [(seed, *rest) for seed in range(20) for rest in (("a",), ("b",), ("a", 0), ("a", 1), ())]
    assert len({derive(*name) for name in names}) == len(names)
    draws = {float(torch.rand((), dtype=torch.float64, generator=generator(*name))) for name in names}
    assert len(draws) == len(names)
    assert len({float(numpy_generator(*name).random()) for name in names}) == len(names)


def test_a_draw_from_one_stream_moves_no_other() -> None:
    left, right = generator(0, "left"), generator(0, "right")
    torch.rand(100, generator=left)
    assert torch.equal(torch.rand(4, generator=right), torch.rand(4, generator=generator(0, "right")))


def test_global_draws_come_from_the_generator_inside_and_go_on_as_before_outside() -> None:
    torch.manual_seed(7)
    undisturbed = torch.rand(4)
    torch.manual_seed(7)
    before = torch.rand(2)
    with global_seed(generator(0, "init")):
        inside = torch.rand(3)
    assert torch.equal(torch.cat([before, torch.rand(2)]), undisturbed)
    with global_seed(generator(0, "init")):
        assert torch.equal(torch.rand(3), inside)
    with global_seed(generator(1, "init")):
        assert not torch.equal(torch.rand(3), inside)


def test_the_global_generator_comes_back_after_an_error() -> None:
    torch.manual_seed(7)
    undisturbed = torch.rand(4)
    torch.manual_seed(7)
    with pytest.raises(KeyError), global_seed(generator(0)):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.rand(4), undisturbed)


def test_blocks_of_one_generator_differ() -> None:
    rng = generator(0, "critic")
    with global_seed(rng):
        first = torch.rand(3)
    with global_seed(rng):
        assert not torch.equal(torch.rand(3), first)
