"""Train one run: base training and every defense alike, since base training is the defense `standard`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deconfound.defenses import DEFENSES
from deconfound.defenses.workbench import Workbench
from deconfound.errors import DataError
from deconfound.models import MODELS
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.registry import build
from deconfound.rng import generator, global_seed
from deconfound.storage import (
    digest,
    provenance,
    read_json,
    read_npz,
    read_weights,
    sha256,
    write_json,
    write_npz,
    write_weights,
)
from deconfound.training import Trainer, only_one
from deconfound.types import Images


def run(
    *,
    train: Path,
    val: Path,
    spec: Mapping[str, Any],
    run: Mapping[str, Any],
    out: Path,
    device: torch.device,
    start: Path | None = None,
    scratch: Path = Path("scratch"),
    code: str = "",
) -> None:
    """Write model.safetensors, trace.npz and run.json into `out`.

    spec: blocks `model`, `training`, `defense`; run: dataset, poison, model, defense, seed. start: folder of the
    run that the defense starts from. scratch holds the state of a killed training, keyed by all that it depends on.
    """
    inputs = {"train": train, "val": val} | ({"start": start / "model.safetensors"} if start else {})
    key = digest([spec, run, code, {name: sha256(path) for name, path in inputs.items()}])
    images, classes = load_images(train)
    held, _ = load_images(val)
    shape = tuple(images.x.shape[1:])
    seed = int(run["seed"])
    architecture = build(MODELS, spec["model"], at=f"models.{run['model']}")
    recipe = build(
        {"recipe": f"{Recipe.__module__}:Recipe"}, {"kind": "recipe", **spec["training"]}, at="training"
    )
    defense = build(DEFENSES, spec["defense"], at=f"defenses.{run['defense']}")

    def network(purpose: str) -> Classifier:
        with global_seed(generator(seed, "init", purpose)):
            model: Classifier = architecture(shape, len(classes))
        model.normalise_like(images.x)
        return model.to(device)

    with only_one(scratch / key):
        trainer = Trainer(images, held, recipe, seed, device, scratch=scratch / key)
        bench = Workbench(
            data=images,
            val=held,
            recipe=recipe,
            network=network,
            rng=partial(generator, seed),
            fit=trainer.fit,
            start=load_model(start, device) if start else None,
        )
        done = defense(bench)
        write_weights(out / "model.safetensors", done.model.state_dict())
        write_npz(out / "trace.npz", done.trace)
        about = {"run": dict(run), "spec": dict(spec), "shape": list(shape), "classes": list(classes)}
        about |= {"history": trainer.history, "notes": dict(done.notes), "provenance": provenance(inputs)}
        write_json(out / "run.json", about)
        for state in (scratch / key).glob("*.safetensors"):
            state.unlink()


def load_images(path: Path) -> tuple[Images, tuple[str, ...]]:
    """Images and class names of a stored split or poisoned set; the poison mask stays in the file."""
    arrays = read_npz(path, "x", "y", "classes")
    if arrays["x"].dtype != "uint8" or arrays["x"].ndim != 4:
        raise DataError(
            f"{path}: expected uint8 images (N, C, H, W), got {arrays['x'].dtype} {arrays['x'].shape}"
        )
    images = Images(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"]))
    return images, tuple(map(str, arrays["classes"]))


def load_model(folder: Path, device: torch.device) -> Classifier:
    """The trained network of a run's folder, in evaluation mode."""
    about = read_json(folder / "run.json")
    architecture = build(MODELS, about["spec"]["model"], at="models")
    model: Classifier = architecture(tuple(about["shape"]), len(about["classes"]))
    try:
        model.load_state_dict(read_weights(folder / "model.safetensors"))
    except RuntimeError as error:
        raise DataError(f"{folder}: the weights do not fit the architecture in run.json: {error}") from error
    return model.to(device).eval()
