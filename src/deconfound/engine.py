"""Attack a frozen model and judge what comes back: in batches, within the budget, counted, and resumable.

Attacks work on a cheaper copy of the model that computes the same (`Speed`); the model itself judges. Every attack is
told to stop at the first image on which the model errs, since that is all that is asked of it.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconfound.errors import AttackError, ModelRaisedError, NoGradientError, UserError
from deconfound.models.classifier import WIDE, predict, to_unit
from deconfound.models.speed import Guarded, folded
from deconfound.rng import generator, global_seed
from deconfound.storage import digest, read_json, write_json
from deconfound.threat import ThreatModel
from deconfound.types import Images

BATCH = 256  # images at a time, of 32 x 32 pixels and more; as many pixels of smaller ones
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Speed:
    """What makes attacks faster and changes no answer. fold: batch norms become part of the layers before them.
    channels_last: memory order of images and weights; None chooses it for pictures of 16 pixels and more on a CPU,
    where pooling is two or three times as fast with it.
    """

    fold: bool = True
    channels_last: bool | None = None

    def last(self, x: Tensor) -> bool:
        """Are images like x (N, C, H, W) kept with the channels last?"""
        wanted = x.device.type == "cpu" and min(x.shape[2:], default=0) >= WIDE
        return x.dim() == 4 and (wanted if self.channels_last is None else self.channels_last)


@dataclass(frozen=True)
class Cost:
    """What one attack (or one member of an ensemble) did: images attacked and broken, images that went forward and
    backward through the model, and why it could not work, if so.
    """

    attack: str
    member: str
    norm: str
    eps: float
    attacked: int = 0
    broken: int = 0
    forward: int = 0
    backward: int = 0
    fault: str = ""

    def plus(self, other: "Cost") -> "Cost":
        """The sum of two parts of the same attack."""
        counts = ("attacked", "broken", "forward", "backward")
        summed = {name: getattr(self, name) + getattr(other, name) for name in counts}
        return replace(self, **summed, fault=self.fault or other.fault)


class Notebook:
    """Finished batches of an evaluation, in a file that a killed one is resumed from. key: digest of all that the
    results depend on; a file with another key is not read.
    """

    def __init__(self, path: Path | None, key: str = "") -> None:
        self.path, self.key = path, key
        self.done: dict[str, Any] = {}
        if path is not None and path.exists():
            found = read_json(path)
            if isinstance(found, dict) and found.get("key") == key:
                self.done = dict(found["done"])

    def get(self, place: str) -> Any:
        """What was written at a place, or None."""
        return self.done.get(place)

    def write(self, place: str, value: Any) -> None:
        """Remember a JSON-like value; the file is replaced as a whole."""
        self.done[place] = value
        if self.path is not None:
            write_json(self.path, {"key": self.key, "done": self.done})

    def forget(self) -> None:
        """Remove the file: the evaluation is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass
class Engine:
    """One model, one set of images, one seed. stored: images of transfers (N, C, H, W) by attack name; notebook: where
    finished batches are kept.
    """

    model: nn.Module
    images: Images
    seed: int
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    speed: Speed = Speed()
    notebook: Notebook = field(default_factory=lambda: Notebook(None))

    def __post_init__(self) -> None:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self.x, self.y = self.images.x.to(device), self.images.y.to(device)
        self.judged = Guarded(self.model)
        with global_seed(generator(self.seed, "judge")):
            self.clean: Bools = (predict(self.judged, self.x).argmax(1) == self.images.y).numpy()
        light = folded(self.model, to_unit(self.x[:4])) if self.speed.fold and len(self.x) else self.model
        if self.speed.last(self.x) and light is not self.model:
            light = light.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.light = Guarded(light)

    def standing(self, attack: Any, name: str, rows: Rows, *, threat: Any = None) -> tuple[Rows, list[Cost]]:
        """Those images (their places in the set) that are still classified right after an attack, and what it cost.

        An ensemble (an attack with `members`) is run member by member, each on what the ones before it left. An attack
        that needs gradients leaves a model without any standing, and the cost says so; so does a model that raises.
        """
        members = attack.members() if hasattr(attack, "members") else {"": attack}
        costs = []
        for member, part in members.items():
            one = _stopping(part)
            rows, cost = self._member(one, name, member, rows, threat or attack.threat)
            costs.append(cost)
        return rows, costs

    def _member(self, attack: Any, name: str, member: str, rows: Rows, threat: Any) -> tuple[Rows, Cost]:
        label = f"{name}/{member}" if member else name
        total = Cost(name, member, threat.norm, threat.eps)
        left = []
        for number, chosen in enumerate(_batches(rows, batch_size(self.x))):
            place = f"{label} {number} {digest([repr(attack), chosen.tolist()])}"
            kept = self.notebook.get(place)
            if kept is None:
                stands, cost = self._batch(attack, name, label, chosen, threat, number, total)
                kept = {"stands": _pack(stands), "cost": asdict(cost)}
                self.notebook.write(place, kept)
            left.append(chosen[_unpack(kept["stands"], len(chosen))])
            total = total.plus(Cost(**kept["cost"]))
        return np.concatenate(left) if left else rows, total

    def _batch(
        self, attack: Any, name: str, label: str, chosen: Rows, threat: Any, number: int, blank: Cost
    ) -> tuple[Bools, Cost]:
        """Attack one batch: which of its images stand, and the cost."""
        picked = torch.from_numpy(chosen).to(self.x.device)
        x, y = to_unit(self.x[picked]), self.y[picked]
        before = self.light.forward_passes, self.light.backward_passes
        fault = ""
        try:
            x_adv = self._adversarial(attack, name, label, x, y, chosen, number)
        except (NoGradientError, ModelRaisedError) as error:
            x_adv, fault = x, str(error)
        forward, backward = self.light.forward_passes - before[0], self.light.backward_passes - before[1]
        self._check_budget(label, threat, x, x_adv)
        stands = self.judge(x_adv, y, label, number)
        broken = int((~stands).sum())
        counts = replace(blank, attacked=len(chosen), broken=broken, forward=forward, backward=backward)
        return stands, replace(counts, fault=fault)

    def _adversarial(
        self, attack: Any, name: str, label: str, x: Tensor, y: Tensor, chosen: Rows, number: int
    ) -> Tensor:
        if name in self.stored:
            return self.stored[name][torch.from_numpy(chosen)].to(x.device, x.dtype)
        rng = generator(self.seed, "attack", label, number)
        if self.speed.last(x):
            x = x.contiguous(memory_format=torch.channels_last)
        with global_seed(generator(self.seed, "model", label, number)):  # for models that draw by themselves
            found: Tensor = attack(self.light, x, y, rng=rng)
        return found

    def judge(self, x: Tensor, y: Tensor, label: str, number: int) -> Bools:
        """(n,) bool: is the model right on images in [0, 1]? Where it raises, it is not fooled."""
        with global_seed(generator(self.seed, "judge", label, number)):
            try:
                logits = predict(self.judged, x)
            except ModelRaisedError:
                return np.ones(len(y), bool)
        right: Bools = (logits.argmax(1) == y.cpu()).numpy()
        return right

    @staticmethod
    def _check_budget(label: str, threat: ThreatModel, x: Tensor, x_adv: Tensor) -> None:
        if x_adv.shape != x.shape:
            raise AttackError(f"attack {label}: expected images {tuple(x.shape)}, got {tuple(x_adv.shape)}")
        legal = threat.contains(x, x_adv)
        if not bool(legal.all()):
            change = float((x_adv - x).abs().max())
            raise UserError(
                f"attack {label} left its budget ({threat.norm}, eps {threat.eps:g}) on {int((~legal).sum())} of"
                f" {len(legal)} images; largest change {change:g}"
            )


def _stopping(attack: Any) -> Any:
    """The attack, told to leave an image as soon as the model errs on it, where it knows how."""
    if hasattr(attack, "at"):
        return attack.at(early_stop=True)
    return replace(attack, early_stop=True) if "early_stop" in {f.name for f in fields(attack)} else attack


def batch_size(x: Tensor) -> int:
    """How many images like x (N, C, H, W) are attacked at a time; part of what results depend on, so it is a rule."""
    return BATCH * max(1, 32 * 32 // max(1, x.shape[2:].numel()))


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _pack(values: Bools) -> str:
    return base64.b64encode(np.packbits(values).tobytes()).decode()


def _unpack(text: str, count: int) -> Bools:
    packed = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)
