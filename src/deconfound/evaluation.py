"""Hits and totals of one trained model: clean, under each attack, under the trigger.

The evaluation, not the attack, judges success and holds each attack to its budget. Robust accuracy counts an
image as a hit when it is classified right both as it is and as the attack returned it, so only images that
the model gets right are attacked.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deconfound.attacks import ATTACKS
from deconfound.attacks.transfer import Transfer
from deconfound.errors import UserError
from deconfound.models.classifier import predict, to_unit
from deconfound.progress import Tick
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.threat import ThreatModel
from deconfound.types import Array, Images

WORST = "worst_case"
BATCH = 256
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Entry:
    """One metric of one model: a hit or a miss per example of a named subset of the test split."""

    metric: str
    attack: str
    subset: str
    hits: Bools
    norm: str = ""
    eps: float = 0.0
    curve: bool = False

    def to_json(self) -> dict[str, Any]:
        """Counts and packed bits; the inverse is `unpack`."""
        bits = base64.b64encode(np.packbits(self.hits, bitorder="little").tobytes()).decode()
        found = {
            "metric": self.metric,
            "attack": self.attack,
            "norm": self.norm,
            "eps": self.eps,
            "curve": self.curve,
        }
        return found | {
            "subset": self.subset,
            "hits": int(self.hits.sum()),
            "total": len(self.hits),
            "bits": bits,
        }


def unpack(entry: Mapping[str, Any]) -> Bools:
    """Hits (N,) bool of a stored entry."""
    packed = np.frombuffer(base64.b64decode(entry["bits"]), np.uint8)
    return np.unpackbits(packed, count=entry["total"], bitorder="little").astype(bool)


@dataclass
class Evaluation:
    """Collects entries for one model. images: the test split, uint8; stored: images of transfers, by name.

    examples: attack only the first so many images (their subset is then called `attacked`).
    """

    model: nn.Module
    images: Images
    seed: int
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    examples: int | None = None
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clean = self._hits(self.images.x)
        self.subset = "test" if self.examples is None else "attacked"

    def clean_accuracy(self) -> None:
        """Untouched test images classified right."""
        self.entries.append(Entry("clean_accuracy", "none", "test", self.clean))

    def moved(self, name: str, x: Array) -> None:
        """The same labels on other pictures (N, C, H, W) uint8, such as the scenes under do(style)."""
        self.entries.append(Entry("clean_accuracy", name, "test", self._hits(torch.from_numpy(x))))

    def robust(self, attacks: Mapping[str, Mapping[str, Any]], tick: Tick) -> None:
        """Robust accuracy under every attack, and per threat model the worst case per example over its
        attacks.
        """
        worst: dict[tuple[str, float], Bools] = {}
        for name, block in attacks.items():
            attack = build(ATTACKS, block, at=f"attacks.{name}")
            threat = self._threat(attack, attacks, name)
            hits = self._robust_hits(attack, threat, name)
            self.entries.append(Entry("robust_accuracy", name, self.subset, hits, threat.norm, threat.eps))
            key = (threat.norm, threat.eps)
            worst[key] = worst.get(key, hits) & hits
            tick(f"{name} {hits.mean():.3f}")
        for (norm, eps), hits in worst.items():
            self.entries.append(Entry("robust_accuracy", WORST, self.subset, hits, norm, eps))

    def curve(self, name: str, block: Mapping[str, Any], radii: list[float], tick: Tick) -> None:
        """Robust accuracy of one attack for each eps; an explicit step size grows in proportion."""
        base = build(ATTACKS, block, at=f"attacks.{name}")
        for eps in radii:
            step = getattr(base, "step_size", None)
            changes = {"step_size": step * eps / base.eps} if step and eps and base.eps else {}
            attack = replace(base, eps=eps, **changes)
            hits = (
                self._robust_hits(attack, attack.threat, f"{name}@{eps}")
                if eps
                else self.clean[: self.examples]
            )
            self.entries.append(
                Entry("robust_accuracy", name, self.subset, hits, attack.threat.norm, eps, curve=True)
            )
            tick(f"{name} eps {eps:.3f} {hits.mean():.3f}")

    def backdoor(self, poison: str, triggered: Images) -> dict[str, NDArray[np.int64]]:
        """ASR and triggered accuracy on images whose hoped-for label is not the true one; recall of the
        target class.

        triggered: every test image stamped, in the order of the test split. Returns the labels of the new
        subsets.
        """
        true = self.images.y
        hoped = triggered.y
        victims = hoped != true
        guess = predict(self.model, triggered.x[victims]).argmax(1)
        self.entries.append(Entry("asr", poison, "triggered", (guess == hoped[victims]).numpy()))
        self.entries.append(
            Entry("triggered_accuracy", poison, "triggered", (guess == true[victims]).numpy())
        )
        subsets = {"triggered": true[victims].numpy()}
        if len(torch.unique(hoped)) == 1:
            own = (true == hoped).numpy()
            self.entries.append(Entry("target_recall", "none", "target", self.clean[own]))
            subsets["target"] = true.numpy()[own]
        return subsets

    def _hits(self, x: Tensor) -> Bools:
        found: Bools = (predict(self.model, x).argmax(1) == self.images.y).numpy()
        return found

    def _threat(self, attack: Any, attacks: Mapping[str, Mapping[str, Any]], name: str) -> ThreatModel:
        if isinstance(attack, Transfer):
            attack = build(ATTACKS, attacks[name]["crafted_by"], at=f"attacks.{name}.attack")
        threat: ThreatModel = attack.threat
        return threat

    def _robust_hits(self, attack: Any, threat: ThreatModel, name: str) -> Bools:
        """Attack what stands, in batches; raise when a returned image is outside the budget."""
        device = next(self.model.parameters()).device
        hits = self.clean[: self.examples].copy()
        standing = torch.from_numpy(np.flatnonzero(hits))
        for number, chosen in enumerate(standing.split(BATCH)):  # type: ignore[no-untyped-call]
            x, y = to_unit(self.images.x[chosen].to(device)), self.images.y[chosen]
            if name in self.stored:
                x_adv = self.stored[name][chosen].to(device)
            else:
                x_adv = attack(self.model, x, y.to(device), rng=generator(self.seed, "attack", name, number))
            legal = threat.contains(x, x_adv)
            if not bool(legal.all()):
                raise UserError(
                    f"attack {name} left its budget ({threat.norm}, eps {threat.eps:g}) on {int((~legal).sum())} of"
                    f" {len(legal)} images; largest change {float((x_adv - x).abs().max()):g}"
                )
            hits[chosen.numpy()] = (predict(self.model, x_adv).argmax(1) == y).numpy()
        return hits


def poison_measures(trace: Mapping[str, Array], mask: Bools) -> dict[str, float]:
    """How well per-example records of a defense tell poison from clean; for scoring, after training has
    ended.

    biased_auroc: that a poisoned example has the lower loss in the biased twin; medians of that loss in nats;
    ratio of mean weights after the first epoch (cbd.md section 9, H2 and H6).
    """
    found = {}
    if "biased_loss" in trace:
        loss = trace["biased_loss"].astype(float)
        found["biased_auroc"] = auroc(-loss, mask)
        found["biased_loss_poisoned"] = float(np.median(loss[mask]))
        found["biased_loss_clean"] = float(np.median(loss[~mask]))
    if "first_weight" in trace:
        weight = trace["first_weight"].astype(float)
        found["first_weight_ratio"] = float(weight[mask].mean() / weight[~mask].mean())
    return found


def auroc(score: NDArray[np.float64], positive: Bools) -> float:
    """Probability that a positive example has the higher score than a negative one, ties counting half; scores (N,).

    Exact, and without an import that costs more than the evaluation of a small model.
    """
    negative = np.sort(score[~positive])
    below, not_above = (np.searchsorted(negative, score[positive], side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(negative)))
