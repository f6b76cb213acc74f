"""Train one run: base training and every defense alike, since base training is the defense `standard`."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deconfound.defenses import DEFENSES
from deconfound.defenses.workbench import Workbench
from deconfound.errors import DataError
from deconfound.models import MODELS
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.steps.images import load_images
from deconfound.steps.networks import fresh, recipe_of
from deconfound.steps.spec import require
from deconfound.steps.weights import load_model
from deconfound.storage import (
    digest,
    provenance,
    read_npz,
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
    crafted: Path | None = None,
    scratch: Path = Path("scratch"),
    code: str = "",
) -> None:
    """Write model.safetensors, parts.safetensors, trace.npz and run.json into `out`.

    spec: blocks `model`, `training`, `defense`; run: dataset, poison, model, defense, seed. start: folder of
    the run that the defense starts from; crafted: the training set as an attack on that run returned it. scratch holds
    the state of a killed training, keyed by all that it depends on.
    """
    require(spec, "model", "training", "defense", at="--spec")
    require(run, "dataset", "poison", "model", "defense", "seed", at="--run")
    inputs = {"train": train, "val": val} | ({"start": start / "model.safetensors"} if start else {})
    inputs |= {"crafted": crafted} if crafted else {}
    key = digest([spec, run, code, {name: sha256(path) for name, path in inputs.items()}])
    images, classes = load_images(train)
    held, _ = load_images(val)
    seed = int(run["seed"])
    architecture = build(MODELS, spec["model"], at=f"models.{run['model']}")
    recipe = recipe_of(spec["training"])
    defense = build(DEFENSES, spec["defense"], at=f"defenses.{run['defense']}")

    with only_one(scratch / key):
        trainer = Trainer(images, held, recipe, seed, device, scratch=scratch / key)
        watch = trainer.meter.watch
        bench = Workbench(
            data=images,
            val=held,
            recipe=recipe,
            network=lambda purpose: watch(fresh(architecture, images, len(classes), seed, device, purpose)),
            rng=partial(generator, seed),
            fit=trainer.fit,
            start=watch(load_model(start, device)) if start else None,
            crafted=_crafted(crafted, images) if crafted else None,
        )
        done = defense(bench)
        write_weights(out / "model.safetensors", done.model.state_dict())
        write_weights(out / "parts.safetensors", done.parts)
        write_npz(out / "trace.npz", done.trace)
        shape = list(images.x.shape[1:])
        about = {"run": dict(run), "spec": dict(spec), "shape": shape, "classes": list(classes)}
        meter = trainer.meter
        cost = asdict(meter) | {"plain_trainings": meter.plain(len(images.y), recipe.epochs)}
        about |= {"history": trainer.history, "cost": cost, "notes": dict(done.notes)}
        about |= {"provenance": provenance(inputs)}
        write_json(out / "run.json", about)
        for state in (scratch / key).glob("*.safetensors"):
            state.unlink()


def _crafted(path: Path, images: Images) -> torch.Tensor:
    """Adversarial training images (N, C, H, W); DataError unless they belong to these training images."""
    x_adv = torch.from_numpy(read_npz(path, "x_adv")["x_adv"])
    if x_adv.shape != images.x.shape:
        expected, got = tuple(images.x.shape), tuple(x_adv.shape)
        raise DataError(f"{path}: expected one adversarial image per training image {expected}, got {got}")
    return x_adv
