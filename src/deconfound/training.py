"""fit(): the only training loop. It knows an objective and a recipe, and no method by name.

A killed run goes on at the epoch it had finished: the state lies under a path that only this run uses, and
every random stream is derived from (seed, phase, epoch), so that the resumed run gives the same bytes.
"""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.defenses.workbench import Stateful, Watch
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.optimisers import batches, load_optimizer_tensors, make_optimizer, optimizer_tensors, under
from deconfound.progress import progress
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.storage import read_weights, write_weights
from deconfound.types import Images, Objective

SAVE_EVERY = 20.0  # seconds between saved states


@dataclass
class Trainer:
    """The bound loop that a defense receives. data, val: uint8 images; scratch: folder for states, or none.

    history: per phase, a record per epoch (epoch, loss, val_accuracy, lr).
    """

    data: Images
    val: Images
    recipe: Recipe
    seed: int
    device: torch.device
    scratch: Path | None = None
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
    ) -> int:
        """Minimise `objective`; see defenses.workbench.Fit. Raises UserError when the loss is no longer
        finite.
        """
        recipe = recipe or self.recipe
        parts = batches(len(self.y), recipe.batch_size)
        optimizer = make_optimizer(recipe, model.parameters())
        state = State(self._file(phase), model, optimizer, objective)
        epoch, records, ended = state.load()
        saved = time.monotonic()
        with progress(f"training {phase}", recipe.epochs) as tick:
            tick(advance=epoch)
            while epoch < recipe.epochs and not ended:
                loss, taken, ended = self._epoch(
                    model, objective, optimizer, recipe, phase, epoch, watch, every
                )
                epoch += 1
                accuracy = self._val_accuracy(model)
                record = {
                    "epoch": epoch,
                    "loss": loss,
                    "val_accuracy": accuracy,
                    "lr": optimizer.param_groups[0]["lr"],
                }
                records.append(record | {"steps": taken})
                tick(f"loss {loss:.3f}, val {accuracy:.3f}")
                if time.monotonic() - saved > SAVE_EVERY or ended or epoch == recipe.epochs:
                    state.save(epoch, records, ended)
                    saved = time.monotonic()
        self.history[phase] = records
        model.eval()
        return int(sum(record["steps"] for record in records)) if parts else 0

    def _epoch(
        self,
        model: Classifier,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        phase: str,
        epoch: int,
        watch: Watch | None,
        every: int,
    ) -> tuple[float, int, bool]:
        """One pass: mean loss, steps taken, and whether the watch ended the training."""
        order = torch.randperm(len(self.y), generator=generator(self.seed, "batches", phase, epoch))
        rng = generator(self.seed, "objective", phase, epoch)
        views = generator(self.seed, "augment", phase, epoch)
        parts = batches(len(order), recipe.batch_size)
        total = torch.zeros((), device=self.device)
        with global_seed(generator(self.seed, "dropout", phase, epoch)):
            for index, part in enumerate(parts):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr_at((epoch + index / len(parts)) / recipe.epochs)
                chosen = order[part].to(self.device)
                x = augment(to_unit(self.x[chosen]), recipe, rng=views)
                model.train()
                optimizer.zero_grad(set_to_none=True)
                loss = objective(model, x, self.y[chosen], rng=rng)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.detach()
                step = epoch * len(parts) + index + 1
                if watch and every and step % every == 0:
                    with eval_mode(model):
                        ended = watch(step, model)
                    if ended:
                        return self._finite(total / (index + 1), phase, epoch), index + 1, True
        return self._finite(total / len(parts), phase, epoch), len(parts), False

    @staticmethod
    def _finite(loss: Tensor, phase: str, epoch: int) -> float:
        if not torch.isfinite(loss):
            raise UserError(
                f"training {phase} diverged in epoch {epoch + 1}: the loss is {float(loss)}; lower lr"
            )
        return float(loss)

    def _val_accuracy(self, model: Classifier) -> float:
        if not len(self.val.y):
            return 0.0
        return float((predict(model, self.val.x).argmax(1) == self.val.y).double().mean())

    def _file(self, phase: str) -> Path | None:
        return self.scratch / f"{phase}.safetensors" if self.scratch else None


@dataclass
class State:
    """A half-trained model in one file: weights, optimiser, the objective's own networks, history."""

    path: Path | None
    model: Classifier
    optimizer: torch.optim.Optimizer
    objective: Objective

    def save(self, epoch: int, records: list[dict[str, float]], ended: bool) -> None:
        """Replace the file; a kill during the write leaves the old one."""
        if self.path is None:
            return
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        if isinstance(self.objective, Stateful):
            tensors |= {f"objective/{name}": value for name, value in self.objective.state().items()}
        about = json.dumps({"epoch": epoch, "records": records, "ended": ended}).encode()
        write_weights(self.path, tensors | {"about": torch.from_numpy(np.frombuffer(about, np.uint8).copy())})

    def load(self) -> tuple[int, list[dict[str, float]], bool]:
        """Epochs done, their records, and whether the training had ended; zero without a file."""
        if self.path is None or not self.path.exists():
            return 0, [], False
        tensors = read_weights(self.path)
        about: dict[str, Any] = json.loads(tensors.pop("about").numpy().tobytes())
        self.model.load_state_dict(under(tensors, "model/"))
        load_optimizer_tensors(self.optimizer, under(tensors, "optimizer/"))
        if isinstance(self.objective, Stateful):
            self.objective.restore(under(tensors, "objective/"))
        return about["epoch"], about["records"], about["ended"]


def augment(x: Tensor, recipe: Recipe, *, rng: Generator) -> Tensor:
    """Random crops after zero padding, and random flips, per image (N, C, H, W); x itself if the recipe has
    neither.
    """
    if recipe.crop:
        height, width = x.shape[-2:]
        padded = F.pad(x, (recipe.crop,) * 4)
        top, left = torch.randint(2 * recipe.crop + 1, (2, len(x), 1, 1), generator=rng).to(x.device)
        rows = top + torch.arange(height, device=x.device).view(1, -1, 1)
        columns = left + torch.arange(width, device=x.device).view(1, 1, -1)
        image = torch.arange(len(x), device=x.device).view(-1, 1, 1)
        x = padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2).contiguous()
    if recipe.flip:
        mirrored = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    return x


@contextmanager
def only_one(scratch: Path) -> Iterator[IO[str]]:
    """Wait until no other process trains the same run (a killed workflow can leave an orphan that still
    does).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
