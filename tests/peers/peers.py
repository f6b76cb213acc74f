"""Runs other people's attack libraries, in an environment of their own, on a model of ours.

Tests next to this file say `from peers import run_peer`; benchmarks put this folder on their path and use
`measure_peer`. runner.py says which attacks and options a library offers.
"""

import copy
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VARIABLE = "DECONFOUND_PEERS"  # the folder of the environment, where it is not the default
HINT = "`make test` makes it, and so does `make .venv-peers/ready` alone"

LibraryName = Literal["torchattacks", "foolbox", "art", "pyautoattack"]
Attacks = Mapping[str, Mapping[str, Any]]
"""Name of a result -> options of the attack; the option `kind` says which attack it is, if the name does not."""
Array = NDArray[np.float32]


class PeerError(RuntimeError):
    """The peers' environment is missing, or a library failed in it."""


@dataclass(frozen=True)
class Found:
    """What an attack of a peer found and took.

    x_adv (N, C, H, W) float32 in [0, 1]; seconds: of each repeat, without start-up, import and warm-up; bytes_before,
    bytes_peak: resident memory of the process before the attack (interpreter, torch, library, model, images), and its
    peak in it.
    """

    x_adv: Array
    seconds: list[float]
    bytes_before: int
    bytes_peak: int


def home() -> Path:
    """The folder of the peers' environment."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".venv-peers")


def available() -> bool:
    """Whether the peers' environment is there and complete."""
    return (home() / "ready").is_file() and (home() / "bin" / "python").exists()


def require() -> None:
    """Skip the test where the environment is missing; fail it where somebody relies on it (CI, or the variable)."""
    import pytest

    if available():
        return
    message = f"the peers' environment is missing at {home()}: {HINT}"
    if os.environ.get("CI") or os.environ.get(VARIABLE):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def run_peer(
    library: LibraryName,
    attacks: Attacks,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threads: int = 1,
    tmp_path: Path | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> dict[str, Array]:
    """x_adv (N, C, H, W) per attack, for tests: skips, or fails, where the environment is missing."""
    require()
    found = measure_peer(
        library, attacks, model, x, y, threads=threads, tmp_path=tmp_path, seed=seed, batch_size=batch_size
    )
    return {name: result.x_adv for name, result in found.items()}


def measure_peer(
    library: LibraryName,
    attacks: Attacks,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threads: int = 1,
    tmp_path: Path | None = None,
    seed: int = 0,
    batch_size: int = 250,
    repeats: int = 1,
    frozen: bool = True,
) -> dict[str, Found]:
    """Run attacks of one library in one process of its own.

    model: gives logits (N, K) of x (N, C, H, W), float in [0, 1]; y (N,) labels. It is attacked in evaluation mode and
    not changed. threads: of torch. seed: set again before each run. batch_size: images that an attack sees at once.
    repeats: timed runs of each attack. frozen: spare the libraries the gradients of the weights, as our attacks do.
    """
    if not available():
        raise PeerError(f"the peers' environment is missing at {home()}: {HINT}")
    with tempfile.TemporaryDirectory(dir=tmp_path, prefix=f"{library}-") as name:
        folder = Path(name)
        pixels = x.detach().cpu().float()
        np.savez(folder / "images.npz", x=pixels.numpy(), y=y.cpu().long().numpy())
        export(model, pixels[:2], folder / "model.pt2")
        request = {
            "library": library,
            "attacks": {name: dict(options) for name, options in attacks.items()},
            "images": str(folder / "images.npz"),
            "model": str(folder / "model.pt2"),
            "found": str(folder / "found.npz"),
            "measures": str(folder / "found.json"),
            "threads": threads,
            "seed": seed,
            "batch_size": batch_size,
            "repeats": repeats,
            "frozen": frozen,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        _run(library, folder, threads)
        measures = json.loads((folder / "found.json").read_text(encoding="utf-8"))["attacks"]
        with np.load(folder / "found.npz") as arrays:
            return {name: Found(x_adv=arrays[name], **measures[name]) for name in attacks}


def export(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the model's evaluation mode for `torch.export.load`, for any number of images like `example`."""
    frozen = copy.deepcopy(model).cpu().eval()
    example = torch.cat([example, example])[:2]  # a batch of one would be taken for a constant
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(frozen, (example,), dynamic_shapes=(batch,)), path)


def _run(library: str, folder: Path, threads: int) -> None:
    """The runner in the peers' Python; no variable of ours, such as PYTHONPATH, leads it elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [home() / "bin" / "python", "-W", "ignore", HERE / "runner.py", folder / "request.json"],
        env=kept | {"OMP_NUM_THREADS": str(threads), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise PeerError(f"{library} failed:\n{(result.stdout + result.stderr)[-4000:]}")
