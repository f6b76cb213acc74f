"""What a job does not need is not loaded: seconds of each of a hundred short jobs."""

import gc
import subprocess
import sys

import pytest

from deconfound.device import uncollected

ASCENT = """
import torch
from deconfound.attacks.pgd import PGD
from deconfound.models.small_cnn import SmallCNN
from deconfound.probes import gradient_norms
model, x, y = SmallCNN(widths=(2,))((1, 8, 8), 2).eval(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
PGD(eps=0.1, steps=2)(model, x, y, rng=torch.Generator())
gradient_norms(model, x, y, lambda logits, labels: logits[:, 0])
"""
JUDGING = """
import deconfound.steps.claims
import deconfound.steps.report
import deconfound.steps.timings
"""


def loaded(code: str, *names: str) -> set[str]:
    """Those of the packages that a fresh interpreter holds after the code."""
    lines = f"{code}\nimport sys\nprint(*sorted({set(names)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_an_ascent_loads_neither_sympy_nor_the_compiler() -> None:
    assert loaded(ASCENT, "sympy", "torch._dynamo", "torch") == {"torch"}


def test_judging_and_reporting_load_no_torch() -> None:
    assert loaded(JUDGING, "torch", "pandas") == {"pandas"}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_search_for_garbage_rests_while_torch_is_loaded_and_is_as_it_was_afterwards(wanted: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if wanted else gc.disable)()
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == wanted and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()
