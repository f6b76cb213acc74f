"""torchvision can be imported whether or not its compiled operators fit; where they do, nothing is declared.

Each case runs in an interpreter of its own, because an import happens once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = "from deconfound import torchvision_operators as t; t.ensure(); t.ensure(); print(len(t._declared))"
DECLARE = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def run(code: str, *, path: Path | None = None, ok: bool = True) -> str:
    places = [str(path)] if path else []
    places += filter(None, [os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout.strip() if ok else done.stderr


@pytest.fixture(scope="module")
def fits() -> bool:
    """Whether torchvision imports here without help."""
    code = "try:\n import torchvision\nexcept RuntimeError: print('no')\nelse: print('yes')"
    return run(code) == "yes"


def test_data_sets_and_operators_can_be_imported_after_ensure(fits: bool) -> None:
    after = (
        "; import torchvision.datasets.utils, torchvision.ops.misc, torch; print(torch.ops.torchvision.nms)"
    )
    assert run(COUNT + after).splitlines() == ["0" if fits else "1", "torchvision.nms"]


def test_operators_that_are_there_already_are_left_alone(fits: bool) -> None:
    assert run(("" if fits else DECLARE) + COUNT) == "0"


def test_a_torchvision_that_imports_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("marker = 1\n")
    assert run(COUNT + "; import torchvision; print(torchvision.marker)", path=tmp_path) == "0\n1"


def test_other_failures_of_the_import_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(
        "import sys\nif not hasattr(sys, 'tried'):\n"
        "    sys.tried = True\n    raise RuntimeError('compiled for another CUDA')\n"
    )
    assert "compiled for another CUDA" in run(COUNT, path=tmp_path, ok=False)
