"""fit(): the only training loop. It knows an objective and a recipe, and no method by name.

A killed run goes on at the epoch it had finished: the state lies under a path that only this run uses, and
every random stream is derived from (seed, phase, epoch), so that the resumed run gives the same bytes.
"""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deconfound.defenses.workbench import Pace, Paced, Stateful, Stepped, Validate, Watch
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.models.meter import Meter, uncounted
from deconfound.optimisers import (
    batches,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    pace,
    under,
)
from deconfound.progress import progress
from deconfound.recipe import Recipe, augment
from deconfound.rng import generator, global_seed
from deconfound.storage import read_weights, write_weights
from deconfound.types import Images, Objective

SAVE_EVERY = 20.0  # seconds between saved states


@dataclass
class Trainer:
    """The bound loop that a defense receives. data, val: uint8 images; scratch: folder for states, or none; meter: of
    the networks that it trains, so that a killed run goes on counting where it was.

    history: per phase, a record per epoch (epoch, loss, val_accuracy, lr, steps; val_robust where validated).
    """

    data: Images
    val: Images
    recipe: Recipe
    seed: int
    device: torch.device
    scratch: Path | None = None
    meter: Meter = field(default_factory=Meter)
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.x, self.y = self.data.x.to(self.device), self.data.y.to(self.device)

    def fit(
        self,
        model: Classifier,
        objective: Objective,
        *,
        phase: str = "model",
        recipe: Recipe | None = None,
        watch: Watch | None = None,
        every: int = 0,
        validate: Validate | None = None,
        keep_best: bool = False,
        data: Images | None = None,
    ) -> int:
        """Minimise `objective`; see defenses.workbench.Fit. Raises UserError when the loss is no longer
        finite.
        """
        recipe = recipe or self.recipe
        seen = Images(self.x, self.y) if data is None else Images(*(part.to(self.device) for part in data))
        parts = batches(len(seen.y), recipe.batch_size, drop_last=recipe.drop_last)
        optimizer = make_optimizer(recipe, model.parameters())
        loop = Loop(
            model, objective, optimizer, recipe, phase, seen, parts, watch, every, averaged(model, recipe)
        )
        state = State(self._file(phase), loop, self.meter)
        epoch, records, ended = state.load()
        saved = time.monotonic()
        with progress(f"training {phase}", recipe.epochs) as tick:
            tick(advance=epoch)
            while epoch < recipe.epochs and not ended:
                loss, taken, ended = self._epoch(loop, epoch)
                epoch += 1
                record = {"epoch": epoch, "loss": loss, "lr": optimizer.param_groups[0]["lr"], "steps": taken}
                record |= self._validated(loop, validate, keep_best)
                records.append(record)
                tick(f"loss {loss:.3f}, val {record['val_accuracy']:.3f}")
                if time.monotonic() - saved > SAVE_EVERY or ended or epoch == recipe.epochs:
                    state.save(epoch, records, ended)
                    saved = time.monotonic()
        self.history[phase] = records
        loop.finish()
        return int(sum(record["steps"] for record in records)) if parts else 0

    def _epoch(self, loop: "Loop", epoch: int) -> tuple[float, int, bool]:
        """One pass: mean loss, steps taken, and whether the watch ended the training."""
        recipe, parts, phase = loop.recipe, loop.parts, loop.phase
        images, labels = loop.data
        order = torch.randperm(len(labels), generator=generator(self.seed, "batches", phase, epoch))
        rng = generator(self.seed, "objective", phase, epoch)
        views = generator(self.seed, "augment", phase, epoch)
        total = torch.zeros((), device=self.device)
        with global_seed(generator(self.seed, "dropout", phase, epoch)):
            for index, part in enumerate(parts):
                loop.pace(Pace(epoch, recipe.epochs, (epoch + index / len(parts)) / recipe.epochs))
                chosen = order[part].to(self.device)
                x = augment(to_unit(images[chosen]), recipe, rng=views)
                total += loop.step(x, labels[chosen], rng=rng)
                if loop.ended(epoch * len(parts) + index + 1):
                    return self._finite(total / (index + 1), phase, epoch), index + 1, True
        return self._finite(total / len(parts), phase, epoch), len(parts), False

    @staticmethod
    def _finite(loss: Tensor, phase: str, epoch: int) -> float:
        if not torch.isfinite(loss):
            raise UserError(
                f"training {phase} diverged in epoch {epoch + 1}: the loss is {float(loss)}; lower lr"
            )
        return float(loss)

    def _validated(self, loop: "Loop", validate: Validate | None, keep_best: bool) -> dict[str, float]:
        """Accuracies on `val` after an epoch; remembers the best weights if they are to be kept."""
        judged = loop.judged
        found = {"val_accuracy": self._val_accuracy(judged)}
        if validate is not None:
            with eval_mode(judged):
                found["val_robust"] = validate(judged)
            if keep_best:
                loop.remember(found["val_robust"])
        return found

    def _val_accuracy(self, model: Classifier) -> float:
        if not len(self.val.y):
            return 0.0
        with uncounted():
            return float((predict(model, self.val.x).argmax(1) == self.val.y).double().mean())

    def _file(self, phase: str) -> Path | None:
        return self.scratch / f"{phase}.safetensors" if self.scratch else None


def averaged(model: Classifier, recipe: Recipe) -> AveragedModel | None:
    """The moving average that a recipe asks for: of weights and of the statistics of batch norms."""
    if not recipe.average:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)  # type: ignore[no-untyped-call]


@dataclass
class Loop:
    """One training under way: what is moved, by what, and what is remembered of it. data: images and labels on the
    device; best: value and weights of the best epoch so far, where they are kept.
    """

    model: Classifier
    objective: Objective
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    phase: str
    data: Images
    parts: list[slice]
    watch: Watch | None = None
    every: int = 0
    average: AveragedModel | None = None
    best: tuple[float, dict[str, Tensor]] | None = None

    @property
    def judged(self) -> Classifier:
        """The network that the training would hand back now."""
        if self.average is None:
            return self.model
        shadow = self.average.module
        assert isinstance(shadow, Classifier)
        return shadow

    def pace(self, at: Pace) -> None:
        """Tell optimiser and objective where the training stands."""
        pace(self.optimizer, self.recipe, at.fraction)
        if isinstance(self.objective, Paced):
            self.objective.pace(at)

    def step(self, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """One step on a batch; its loss, detached."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.model, x, y, rng=rng)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if isinstance(self.objective, Stepped):
            self.objective.after_step(self.model)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    def ended(self, step: int) -> bool:
        """Ask the watch, when it is time, whether this was the last step."""
        if not (self.watch and self.every and step % self.every == 0):
            return False
        with eval_mode(self.judged):
            return self.watch(step, self.judged)

    def remember(self, value: float) -> None:
        """Keep the weights if they are better than all before."""
        if self.best is None or value > self.best[0]:
            state = self.judged.state_dict()
            self.best = value, {name: tensor.detach().clone() for name, tensor in state.items()}

    def finish(self) -> None:
        """Leave in the model what the training hands back, in evaluation mode."""
        if self.best is not None:
            self.model.load_state_dict(self.best[1])
        elif self.average is not None:
            self.model.load_state_dict(self.judged.state_dict())
        self.model.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name; the inverse is `load`."""
        groups = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        if isinstance(self.objective, Stateful):
            groups["objective"] = self.objective.state()
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        if self.best is not None:
            groups["best"] = {"value": torch.tensor(self.best[0], dtype=torch.float64)}
            groups["best_model"] = self.best[1]
        return {f"{group}/{name}": value for group, found in groups.items() for name, value in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self.model.load_state_dict(under(tensors, "model/"))
        load_optimizer_tensors(self.optimizer, under(tensors, "optimizer/"))
        if isinstance(self.objective, Stateful):
            self.objective.restore(under(tensors, "objective/"))
        if self.average is not None:
            self.average.load_state_dict(under(tensors, "average/"))
        if "best/value" in tensors:
            self.best = float(tensors["best/value"]), under(tensors, "best_model/")


@dataclass
class State:
    """A half-trained model in one file: weights, optimiser, the objective's own networks, history."""

    path: Path | None
    loop: Loop
    meter: Meter

    def save(self, epoch: int, records: list[dict[str, float]], ended: bool) -> None:
        """Replace the file; a kill during the write leaves the old one."""
        if self.path is None:
            return
        state = {"epoch": epoch, "records": records, "ended": ended}
        about = json.dumps(state | {"meter": [self.meter.forward, self.meter.backward]}).encode()
        text = torch.from_numpy(np.frombuffer(about, np.uint8).copy())
        write_weights(self.path, self.loop.tensors() | {"about": text})

    def load(self) -> tuple[int, list[dict[str, float]], bool]:
        """Epochs done, their records, and whether the training had ended; zero without a file."""
        if self.path is None or not self.path.exists():
            return 0, [], False
        tensors = read_weights(self.path)
        about: dict[str, Any] = json.loads(tensors.pop("about").numpy().tobytes())
        self.loop.load(tensors)
        self.meter.forward, self.meter.backward = about["meter"]
        return about["epoch"], about["records"], about["ended"]


@contextmanager
def only_one(scratch: Path) -> Iterator[IO[str]]:
    """Wait until no other process trains the same run (a killed workflow can leave an orphan that still
    does).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
