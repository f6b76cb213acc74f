"""Commands that make data.

Everything heavy is imported inside a command, so that help and errors in options are instant.
"""

from pathlib import Path
from typing import Annotated

import typer

from deconfound.errors import UserError
from deconfound.options import (
    Code,
    Gpu,
    Manifest,
    OptionalSeed,
    Out,
    Scratch,
    Spec,
    TestFile,
    Threads,
    TrainFile,
)


def fetch(
    spec: Spec,
    out: Out,
    cache: Annotated[Path, typer.Option(help="Folder for downloads.")] = Path("data/raw"),
    code: Code = "",
) -> None:
    """Fetch or make a data set and cut it into train, val and test.

    Example: deconfound fetch --spec '{"source": {"kind": "digits"}, "val": 0.1, "slice": {"train": null,
    "test": null}, "split_seed": 0}' --out data/clean/digits
    """
    from deconfound.steps import fetch as step

    step.run(spec=spec, cache=cache, out=out)


def poison(
    train: TrainFile,
    test: TestFile,
    out: Out,
    spec: Spec = None,
    seed: OptionalSeed = None,
    manifest: Manifest = None,
    scratch: Scratch = Path("scratch"),
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Poison a training set, and stamp the test set for scoring; the manifest beside it makes both again.

    Example: deconfound poison --train data/clean/scenes/train.npz --test data/clean/scenes/test.npz --spec
    '{"poison": {"kind": "badnets", "rate": 0.1, "target": 2}}' --seed 0 --out data/poisoned/scenes/badnets/seed0.npz

    From a manifest: deconfound poison --train ... --test ... --manifest data/poisoned/scenes/badnets/seed0.json --out
    again.npz
    """
    from deconfound.device import setup
    from deconfound.steps import poison as step

    if (manifest is None) == (spec is None or seed is None):
        raise UserError("poison: expected either --spec and --seed, or --manifest")
    device = setup(threads=threads, gpu=gpu > 0)
    if manifest:
        step.again(train=train, test=test, manifest=manifest, out=out, device=device, scratch=scratch)
    else:
        step.run(train=train, test=test, spec=spec, seed=seed or 0, out=out, device=device, scratch=scratch)
