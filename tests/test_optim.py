"""Optimisers without torch's compiler: the arithmetic of torch, and nothing of the compiler in memory."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deconfound
from deconfound import optim

KINDS: list[tuple[Any, Any, dict[str, Any]]] = [
    (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.05, "betas": (0.5, 0.9), "weight_decay": 1e-2}),
    (optim.AdamW, torch.optim.AdamW, {"lr": 0.05}),
]


def weights() -> list[Tensor]:
    return [torch.linspace(-1, 1, 12).view(3, 4).requires_grad_(), torch.ones(2).requires_grad_()]


def run(optimizer: torch.optim.Optimizer, parameters: list[Tensor], steps: int = 5) -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum((torch.randn(p.shape, generator=rng) * p.sin()).sum() for p in parameters)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()


@pytest.mark.parametrize(("mine", "theirs", "options"), KINDS)
def test_steps_are_those_of_torch_to_the_bit(mine: Any, theirs: Any, options: dict[str, Any]) -> None:
    here, there = weights(), weights()
    run(mine(here, **options), here)
    run(theirs(there, **options), there)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not torch.equal(here[0], weights()[0]) and all(p.is_leaf for p in here)


@pytest.mark.parametrize(("mine", "theirs", "options"), KINDS)
def test_a_state_goes_over_to_torch_and_back(mine: Any, theirs: Any, options: dict[str, Any]) -> None:
    here = weights()
    run(first := mine(here, **options), here)
    there = [p.detach().clone().requires_grad_() for p in here]
    other = theirs(there, **options)
    other.load_state_dict(copy.deepcopy(first.state_dict()))
    again = [p.detach().clone().requires_grad_() for p in here]
    back = mine(again, **options)
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    for optimizer, parameters in ((first, here), (other, there), (back, again)):
        run(optimizer, parameters, 2)
    assert torch.equal(here[0], there[0]) and torch.equal(here[0], again[0])


def test_a_group_that_is_added_later_is_trained_as_well() -> None:
    one, other = weights()
    optimizer = optim.SGD([one], lr=0.1)
    optimizer.add_param_group({"params": [other], "lr": 0.5})
    other.grad = torch.ones(2)
    optimizer.step()
    assert other.tolist() == [0.5, 0.5]
    optimizer.zero_grad()
    assert other.grad is None


def test_the_compiler_of_torch_stays_out_of_memory() -> None:
    lines = (
        "import sys, torch",
        "from deconfound.optim import SGD, Adam, AdamW",
        "p = torch.ones(2, requires_grad=True)",
        "p.grad = torch.ones(2)",
        "made = [kind([p], lr=0.1) for kind in (SGD, Adam, AdamW)]",
        "[(one.step(), one.load_state_dict(one.state_dict())) for one in made]",
        "made[0].zero_grad()",
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_other_module_builds_an_optimiser_of_torch() -> None:
    root = Path(deconfound.__file__).parent
    called = re.compile(r"\boptim\.(SGD|Adam|AdamW)\(")
    found = [
        path.name for path in sorted(root.rglob("*.py")) if called.search(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_they_are_optimisers_of_torch() -> None:
    made = optim.AdamW(nn.Linear(2, 1).parameters(), lr=0.1)
    assert isinstance(made, torch.optim.AdamW) and isinstance(made, torch.optim.Optimizer)
