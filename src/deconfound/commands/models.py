"""Commands that train, attack and score models.

Everything heavy is imported inside a command, so that help and errors in options are instant.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from deconfound.errors import UserError
from deconfound.options import (
    ChannelsLast,
    Code,
    Crafted,
    Fold,
    Gpu,
    KnownTrainFile,
    KnownValFile,
    ModelFolder,
    Out,
    PoisonedFile,
    RunText,
    Scratch,
    Seed,
    Spec,
    Start,
    Stored,
    TestFile,
    Threads,
    TrainFile,
    ValFile,
)


def _train(
    train: Path,
    val: Path,
    spec: Any,
    run: Any,
    out: Path,
    start: Path | None,
    crafted: Path | None,
    scratch: Path,
    threads: int,
    gpu: int,
    code: str,
) -> None:
    from deconfound.device import setup
    from deconfound.steps import train as step

    device = setup(threads=threads, gpu=gpu > 0)
    step.run(
        train=train,
        val=val,
        spec=spec,
        run=run,
        out=out,
        device=device,
        start=start,
        crafted=crafted,
        scratch=scratch,
        code=code,
    )


def train(
    train: TrainFile,
    val: ValFile,
    spec: Spec,
    run: RunText,
    out: Out,
    scratch: Scratch = Path("scratch"),
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Base training: the undefended model of a data set, poison, architecture and seed.

    --spec holds the blocks `model`, `training` and `defense` (kind `standard`). A killed training goes on
    where it was.
    """
    _train(train, val, spec, run, out, None, None, scratch, threads, gpu, code)


def defend(
    train: TrainFile,
    val: ValFile,
    spec: Spec,
    run: RunText,
    out: Out,
    start: Start = None,
    crafted: Crafted = None,
    scratch: Scratch = Path("scratch"),
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Train with a defense, from scratch or from another run (--start).

    --spec holds the blocks `model`, `training` and `defense`. A killed training goes on where it was.
    """
    _train(train, val, spec, run, out, start, crafted, scratch, threads, gpu, code)


def attack(
    model: ModelFolder,
    images: Annotated[Path, typer.Option(help="Images to attack (npz): a test split, or a training set.")],
    spec: Spec,
    name: Annotated[str, typer.Option(help="Name of the attack; part of its random seed.")],
    seed: Seed,
    out: Out,
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Craft adversarial images on a trained model and keep them.

    Example: deconfound attack --model checkpoints/base/digits/clean/cnn/standard/seed0 --images
    data/clean/digits/test.npz --name pgd --spec '{"kind": "pgd", "eps": "8/255"}' --seed 0 --out pgd.npz
    """
    from deconfound.device import setup
    from deconfound.steps import attack as step

    device = setup(threads=threads, gpu=gpu > 0)
    step.run(model=model, images=images, spec=spec, name=name, seed=seed, out=out, device=device)


def evaluate(
    model: ModelFolder,
    test: TestFile,
    spec: Spec,
    out: Out,
    poisoned: PoisonedFile = None,
    stored: Stored = None,
    fold: Fold = True,
    channels_last: ChannelsLast = None,
    train: KnownTrainFile = None,
    val: KnownValFile = None,
    scratch: Scratch = Path("scratch"),
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Score a trained model: clean accuracy, robust accuracy under every attack, ASR under the trigger.

    Example: deconfound evaluate --model checkpoints/base/digits/clean/cnn/standard/seed0 --test
    data/clean/digits/test.npz --spec '{"attacks": {"pgd": {"kind": "pgd", "eps": 0.1}}, "curves": [],
    "examples": null}' --out evaluation.json

    A killed evaluation goes on where it was.
    """
    from deconfound.device import setup
    from deconfound.engine import Speed
    from deconfound.steps import evaluate as step

    pairs = [text.partition("=") for text in stored or []]
    if wrong := [name for name, equals, file in pairs if not (name and equals and file)]:
        raise UserError(f"--stored: expected NAME=FILE, got {wrong[0]!r}")
    files = {name: Path(file) for name, _, file in pairs}
    device = setup(threads=threads, gpu=gpu > 0)
    speed = Speed(fold=fold, channels_last=channels_last)
    step.run(
        model=model,
        test=test,
        spec=spec,
        out=out,
        device=device,
        poisoned=poisoned,
        stored=files,
        train=train,
        val=val,
        scratch=scratch,
        speed=speed,
        code=code,
    )


def interpret(
    model: ModelFolder,
    test: TestFile,
    train: TrainFile,
    val: ValFile,
    spec: Spec,
    out: Out,
    poisoned: PoisonedFile = None,
    threads: Threads = 1,
    gpu: Gpu = 1,
    code: Code = "",
) -> None:
    """Read off a trained model where its evidence lies, and who can tell that it is attacked.

    --spec holds blocks of interpretations by name. Pictures go to pictures.npz beside the output.
    """
    from deconfound.device import setup
    from deconfound.steps import interpret as step

    device = setup(threads=threads, gpu=gpu > 0)
    step.run(
        model=model, test=test, train=train, val=val, spec=spec, out=out, device=device, poisoned=poisoned
    )
