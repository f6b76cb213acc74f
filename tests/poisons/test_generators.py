"""What poisons with networks of their own share."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same
from torch import nn

from deconfound.poisons.generators import Apprentice, EncoderDecoder, by_parts, within
from deconfound.rng import global_seed


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_are_put_together_in_their_order() -> None:
    x, y = torch.arange(10).view(-1, 1), torch.arange(10, 20).view(-1, 1)
    seen: list[int] = []

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(len(a))
        return a + b

    assert torch.equal(by_parts(add, x, y, size=4), x + y) and seen == [4, 4, 2]
    assert by_parts(add, x[:0], y[:0]).shape == (0, 1) and len(seen) == 3


@given(st.integers(0, 2**32), st.integers(0, 40), st.booleans())
def test_rounded_images_stay_within_whole_grey_levels(seed: int, levels: int, between: bool) -> None:
    rng = fresh(seed)
    x = torch.randint(256, (3, 1, 4, 4), generator=rng, dtype=torch.uint8)
    z = torch.rand(3, 1, 4, 4, generator=rng)
    found = within(x, z, (levels + 0.9 * between) / 255)
    moved = found.int() - x.int()
    assert found.dtype == torch.uint8 and int(moved.abs().max()) <= levels
    wanted = (255 * z).round().int() - x.int()
    assert torch.equal(moved.abs(), wanted.abs().clamp(max=levels)) and (moved * wanted >= 0).all()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 13)])
def test_an_encoder_decoder_draws_maps_of_the_size_of_its_images(
    levels: int, shape: tuple[int, int, int]
) -> None:
    with global_seed(fresh()):
        network = EncoderDecoder(shape[0], 2, levels=levels, base=4).eval()
    x = torch.randn(5, *shape, generator=fresh(1))
    drawn = network(x)
    assert drawn.shape == (5, 2, *shape[1:])
    assert drawn.min() > 0 and drawn.max() < 1
    assert torch.allclose(network(x[2:3]), drawn[2:3], atol=1e-6)
    widest = max(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    assert widest == 4 * 2 ** (levels - 1)


def test_an_apprentice_moves_along_the_gradient_of_one_step_alone() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    apprentice = Apprentice(
        network, lr=0.1, betas=(0.0, 0.0)
    )  # without memory Adam's step is lr times the sign
    network.weight.sum().mul(5).backward()  # type: ignore[no-untyped-call]
    apprentice.step()
    assert network.weight.item() == pytest.approx(0.9)
    network.weight.sum().mul(-1).backward()  # type: ignore[no-untyped-call]
    assert network.weight.grad is not None and network.weight.grad.item() == -1  # not 5 - 1
    apprentice.step()
    assert network.weight.item() == pytest.approx(1.0)


def learnt(apprentice: Apprentice, steps: int) -> Apprentice:
    x = torch.randn(6, 2, generator=fresh())
    for _ in range(steps):
        apprentice.network(x).square().sum().backward()
        apprentice.step()
    return apprentice


def apprentice() -> Apprentice:
    with global_seed(fresh()):
        return Apprentice(
            nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), lr=0.1, betas=(0.5, 0.9)
        )


def test_a_restored_apprentice_goes_on_as_if_nothing_had_happened() -> None:
    half = learnt(apprentice(), 2)
    state = {name: tensor.clone() for name, tensor in half.state().items()}
    other = apprentice()
    other.restore(state)
    assert same(learnt(other, 2).state(), learnt(apprentice(), 4).state())
    bare = apprentice()
    bare.network.load_state_dict(half.network.state_dict())
    assert not same(learnt(bare, 2).state(), learnt(apprentice(), 4).state())  # Adam remembers
