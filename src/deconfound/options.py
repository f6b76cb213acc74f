"""Options that several commands share, and how their text is read."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deconfound.errors import UserError


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object, or that of a file named after an @."""
    source = text
    try:
        if text.startswith("@"):
            source = Path(text[1:]).read_text(encoding="utf-8")
        found = json.loads(source)
    except OSError as error:
        raise typer.BadParameter(f"{text[1:]}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"expected JSON, or @FILE with JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"expected a JSON object, got {type(found).__name__}")
    return found


def listing(plan: Path, *keys: str) -> dict[str, Any]:
    """What `deconfound plan` wrote; refused if it lacks a key."""
    from deconfound.steps.spec import require
    from deconfound.storage import read_json

    found = read_json(plan)
    if not isinstance(found, dict):
        raise UserError(f"{plan}: expected the list of artifacts that `deconfound plan` writes")
    require(found, *keys, at=str(plan))
    return found


Spec = Annotated[
    Any, typer.Option(parser=parse_json, metavar="JSON", help="Parameters as JSON, or @FILE with JSON.")
]
OptionalSeed = Annotated[
    int | None, typer.Option(min=0, help="One integer; every random draw derives from it.")
]
Manifest = Annotated[
    Path | None, typer.Option(help="Make again the poisoned set that a manifest (JSON) describes.")
]
Out = Annotated[Path, typer.Option(help="Where to write.", dir_okay=True)]
Seed = Annotated[int, typer.Option(min=0, help="One integer; every random draw of the step derives from it.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads. Another number changes the last bits of results.")
]
Gpu = Annotated[
    int, typer.Option(min=0, help="0 keeps the step on the CPU; otherwise a GPU is used if there is one.")
]
Code = Annotated[
    str, typer.Option(help="Fingerprint of the source (the workflow passes it; no need by hand).")
]
TrainFile = Annotated[Path, typer.Option(help="Training set (npz): a clean split or a poisoned set.")]
ModelFolder = Annotated[Path, typer.Option(help="Folder of a trained model (model.safetensors, run.json).")]
TestFile = Annotated[Path, typer.Option(help="Test split (npz).")]
PlanFile = Annotated[Path, typer.Option(help="The list of artifacts that `deconfound plan` wrote.")]


ValFile = Annotated[Path, typer.Option(help="Validation split (npz), cut from the clean training images.")]
RunText = Annotated[
    Any,
    typer.Option(
        parser=parse_json,
        metavar="JSON",
        help='{"dataset": ..., "poison": ..., "model": ..., "defense": ..., "seed": 0}',
    ),
]
Scratch = Annotated[Path, typer.Option(help="Where the state of a killed step waits for the next attempt.")]
Start = Annotated[Path | None, typer.Option(help="Folder of the trained model to start from.")]
Crafted = Annotated[
    Path | None, typer.Option(help="The training set as an attack on that model returned it (npz).")
]
PoisonedFile = Annotated[Path | None, typer.Option(help="Poisoned set of the run (npz), for ASR.")]
Stored = Annotated[list[str] | None, typer.Option(help="NAME=FILE: crafted images of a transfer attack.")]
Fold = Annotated[bool, typer.Option(help="Attack a copy without batch norms that computes the same.")]
ChannelsLast = Annotated[
    bool | None, typer.Option(help="Memory order of attacked images; by default whichever is usually faster.")
]
KnownTrainFile = Annotated[
    Path | None, typer.Option(help="Training set (npz), for properties and detectors.")
]
KnownValFile = Annotated[Path | None, typer.Option(help="Validation split (npz), for detectors.")]
