"""One subcommand per rule of the graph: parse, call, write. `deconfound COMMAND --help` explains each.

Everything heavy is imported inside a command, so that help and errors in options are instant.
"""

import sys
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
    ModelFolder,
    Out,
    PlanFile,
    PoisonedFile,
    PropertyTrainFile,
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
    listing,
    parse_json,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which published robustness claims survive a fair test?\n\n"
    "Each command is one step of the pipeline and can be run by hand: it reads the files it is given and writes one"
    " artifact. `snakemake --cores all` runs them all in order and prints the exact commands with `-p`.",
)


@app.command()
def plan(
    experiment: Annotated[Path, typer.Argument(help="An experiment (YAML).")] = Path("config.yaml"),
    out: Annotated[Path | None, typer.Option(help="Write the list of artifacts as JSON.")] = None,
    overrides: Annotated[
        Any, typer.Option(parser=parse_json, metavar="JSON", help="Keys laid over the file's.")
    ] = "{}",
) -> None:
    """Check an experiment, and say which runs it consists of.

    Example: deconfound plan experiments/mnist.yaml
    """
    from deconfound.config import read
    from deconfound.graph import Graph
    from deconfound.storage import write_json

    graph = Graph(read(experiment, overrides))
    if out:
        file = "" if experiment == Path("config.yaml") else str(experiment)
        write_json(out, graph.listing() | {"file": file})
        return
    for run in graph.runs:
        typer.echo(str(run))
    typer.echo(
        f"{len(graph.runs)} runs ({len(graph.base)} base), {len(graph.crafted)} adversarial sets", err=True
    )


@app.command()
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


@app.command()
def poison(train: TrainFile, test: TestFile, spec: Spec, seed: Seed, out: Out, code: Code = "") -> None:
    """Poison a training set, and stamp the test set for scoring.

    Example: deconfound poison --train data/clean/scenes/train.npz --test data/clean/scenes/test.npz --spec
    '{"kind": "badnets", "rate": 0.1, "target": 2}' --seed 0 --out data/poisoned/scenes/badnets/seed0.npz
    """
    from deconfound.steps import poison as step

    step.run(train=train, test=test, spec=spec, seed=seed, out=out)


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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def evaluate(
    model: ModelFolder,
    test: TestFile,
    spec: Spec,
    out: Out,
    poisoned: PoisonedFile = None,
    stored: Stored = None,
    fold: Fold = True,
    channels_last: ChannelsLast = None,
    train: PropertyTrainFile = None,
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
        scratch=scratch,
        speed=speed,
        code=code,
    )


@app.command()
def calibrate(spec: Spec, out: Out, threads: Threads = 1, code: Code = "") -> None:
    """Measure how far estimates of mutual information can be trusted, on Gaussians whose information is known.

    Example: deconfound calibrate --spec '{"seeds": 4}' --out calibration.json
    """
    from deconfound.device import setup
    from deconfound.steps import calibrate as step

    setup(threads=threads, gpu=False)
    step.run(spec=spec, out=out)


@app.command()
def claims(plan: PlanFile, out: Out, code: Code = "") -> None:
    """Tabulate all evaluations with intervals, and judge the claims of the ledgers.

    Example: deconfound claims --plan reports/plan.json --out reports/tables
    """
    from deconfound.steps import claims as step

    found = listing(plan, "evaluations", "ledgers", "controls", "calibration")
    evaluations = [Path(path) for path in found["evaluations"]]
    ledgers = [Path(path) for path in found["ledgers"]]
    calibration = [Path(path) for path in found["calibration"]]
    paths = {"evaluations": evaluations, "ledgers": ledgers, "calibration": calibration}
    step.run(**paths, controls=found["controls"], out=out)


@app.command()
def report(plan: PlanFile, out: Out, code: Code = "") -> None:
    """Write the report as HTML and PDF, with its figures, from the tables in OUT/tables.

    Example: deconfound report --plan reports/plan.json --out reports
    """
    from deconfound.steps import report as step

    keys = ("experiment", "file", "runs", "adversarial", "poisoned", "clean", "calibration")
    step.run(plan=listing(plan, *keys), out=out)


@app.command()
def timings(
    plan: PlanFile,
    folder: Annotated[Path, typer.Option(help="Folder of the workflow's benchmark files.")],
    out: Out,
    code: Code = "",
) -> None:
    """Write a page with the seconds and the memory that each rule took (they differ from run to run)."""
    from deconfound.steps import timings as step

    step.run(plan=listing(plan, "timings"), folder=folder, out=out)


def main() -> None:
    """Run a command; an error that the user can act on is one message and exit status 1."""
    try:
        app()
    except UserError as error:
        print(f"deconfound: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("deconfound: interrupted; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
