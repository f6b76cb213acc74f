"""CLP: the bound of a kernel that was made by hand, and the channels above it."""

import pytest
import torch
from repair_benches import bench
from torch import nn

from deconfound.defenses.clp import CLP, lipschitz, outliers
from deconfound.defenses.repair import suspect


def test_the_bound_is_the_largest_singular_value_times_the_factor_of_the_batch_norm() -> None:
    conv, norm = nn.Conv2d(2, 2, (1, 2), bias=False), nn.BatchNorm2d(2, eps=0.0)
    # channel 0: rows are inputs, columns positions: diag(3, 4); channel 1: ones, of rank one
    conv.weight.data = torch.tensor([[[[3.0, 0]], [[0, 4]]], [[[1, 1]], [[1, 1]]]])
    norm.weight.data = torch.tensor([-0.5, 3.0])
    norm.running_var = torch.tensor([0.25, 9.0])
    assert lipschitz(conv, norm).tolist() == pytest.approx([4 * 0.5 / 0.5, 2 * 3 / 3])


def test_the_variance_has_its_epsilon_as_in_the_network() -> None:
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=3.0)
    conv.weight.data.fill_(2)
    assert lipschitz(conv, norm).item() == pytest.approx(2 / 2)  # variance 1 + 3


def test_the_bound_is_what_a_kernel_as_large_as_the_picture_can_do_to_one_input() -> None:
    """With one input channel the matrix is a row: its norm bounds the response to a unit change, and is reached."""
    conv, norm = nn.Conv2d(1, 1, 3, bias=False), nn.BatchNorm2d(1, eps=0.0).eval()
    bound = lipschitz(conv, norm).item()
    change = conv.weight.detach() / conv.weight.detach().norm()
    with torch.no_grad():
        reached = (norm(conv(change)) - norm(conv(torch.zeros(1, 1, 3, 3)))).item()
    assert reached == pytest.approx(bound, rel=1e-5)


def test_the_bound_of_a_linear_layer_is_the_norm_of_its_row() -> None:
    layer, norm = nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1, eps=0.0)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    assert lipschitz(layer, norm).item() == pytest.approx(5)


def test_channels_above_the_mean_by_u_standard_deviations_are_outliers() -> None:
    bounds = torch.tensor([1.0, 1, 1, 1, 6])  # mean 2, standard deviation of a sample sqrt(5)
    assert outliers(bounds, 1.78).tolist() == [4]
    assert outliers(bounds, 1.79).tolist() == []
    assert outliers(torch.ones(5), 0.0).tolist() == [] and outliers(torch.ones(1), 0.0).tolist() == []


@pytest.mark.parametrize("count", [4, 10, 11, 40])
def test_no_channel_is_further_out_than_the_size_of_its_layer_allows(count: int) -> None:
    bounds = torch.zeros(count, dtype=torch.float64)
    bounds[3] = 1
    limit = (count - 1) / count**0.5
    assert outliers(bounds, limit - 1e-6).tolist() == [3] and outliers(bounds, limit + 1e-6).tolist() == []
    assert (limit > 3) == (count >= 11)


def test_clp_silences_the_planted_channel_and_nothing_else() -> None:
    room = bench()
    assert room.start is not None
    room.start.body[4].weight.data[2] *= 1000  # type: ignore[index, union-attr, operator]
    done, start = CLP(u=1.0)(room), suspect(room)
    norm, before = done.model.get_submodule("body.5"), start.get_submodule("body.5")
    assert norm.weight[2] == 0 and norm.bias[2] == 0  # type: ignore[index]
    kept = [0, 1, 3]
    assert torch.equal(norm.weight[kept], before.weight[kept])  # type: ignore[index]
    assert done.notes["units"] == 7 and done.notes["clean_images"] == 0


def test_linear_layers_are_judged_only_where_that_is_asked_for() -> None:
    assert CLP()(bench()).notes["units"] == 7 and CLP(linear=True)(bench()).notes["units"] == 12
