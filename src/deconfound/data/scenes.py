"""Scenes: pictures made here, with a known causal graph.

shape -> label; style -> background, texture, colour; label <-> style only by `correlation`

An object whose shape causes the label lies somewhere on a textured ground. Ground and colours follow a
style that equals the label with probability `correlation` and is drawn uniformly otherwise. Where there is
correlation, the test split also carries `x_do_style`: the same objects, positions and noise, redrawn under
do(style), where style is independent of the label.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from deconfound.fields import Count, Fraction01, Natural, NonNegative, hyperparameters
from deconfound.rng import numpy_generator
from deconfound.types import Images, Source, Split

Floats = NDArray[np.float64]
SIZE = 32
SOFT = 0.06  # width of an edge, in units where the picture spans [-1, 1]


def _polygon(px: Floats, py: Floats, sides: int, radius: float = 1.0) -> Floats:
    """Signed distance-like value of a regular polygon, negative inside."""
    step = 2 * np.pi / sides
    angle = (np.arctan2(py, px) + np.pi / 2) % step - step / 2
    apothem = radius * np.cos(np.pi / sides)
    distance: Floats = np.hypot(px, py) * np.cos(angle) - apothem
    return distance


def _cross(px: Floats, py: Floats) -> Floats:
    ax, ay = np.abs(px), np.abs(py)
    return np.minimum(np.maximum(ax - 0.95, ay - 0.3), np.maximum(ay - 0.95, ax - 0.3))


def _star(px: Floats, py: Floats) -> Floats:
    angle = (np.arctan2(py, px) + np.pi / 2) % (2 * np.pi / 5) - np.pi / 5
    edge = 0.5 + 0.55 * (np.abs(angle) / (np.pi / 5))
    return np.hypot(px, py) - edge


def _crescent(px: Floats, py: Floats) -> Floats:
    return np.maximum(np.hypot(px, py) - 0.95, 0.75 - np.hypot(px - 0.45, py))


def _arrow(px: Floats, py: Floats) -> Floats:
    head = np.maximum(np.abs(px) * 0.9 + py - 0.1, -0.95 - py)
    shaft = np.maximum(np.abs(px) - 0.28, np.abs(py - 0.35) - 0.6)
    return np.minimum(head, shaft)


SHAPES: dict[str, Any] = {
    "disk": lambda px, py: np.hypot(px, py) - 0.85,
    "triangle": lambda px, py: _polygon(px, py, 3, 1.15),
    "square": lambda px, py: np.maximum(np.abs(px), np.abs(py)) - 0.75,
    "cross": _cross,
    "ring": lambda px, py: np.abs(np.hypot(px, py) - 0.7) - 0.22,
    "star": _star,
    "bar": lambda px, py: np.maximum(np.abs(px) - 1.0, np.abs(py) - 0.3),
    "crescent": _crescent,
    "hourglass": lambda px, py: np.maximum(np.abs(py) - 0.85, np.abs(px) - np.abs(py) - 0.08),
    "arrow": _arrow,
}


def _hue(hue: Floats) -> Floats:
    """Saturated colours (N, 3) of hues in turns."""
    offsets = np.array([0.0, 1 / 3, 2 / 3])
    colours: Floats = 0.5 + 0.5 * np.cos(2 * np.pi * (hue[:, None] - offsets))
    return colours


@hyperparameters
class Scenes:
    """classes: how many shapes; correlation: P(style = label) beyond chance, in the i.i.d. splits.

    train, test: number of pictures; seed: of all draws. noise: standard deviation of pixel noise; clutter:
    small distractors per picture; contrast: how far the object's brightness may lie from the ground's
    (lower is harder); size: radius of the object, in half pictures; turn: range of rotations, 1 is a full
    turn.
    """

    classes: Annotated[Natural, Field(ge=2, le=len(SHAPES))] = 10
    train: Count = 3000
    test: Count = 1000
    correlation: Fraction01 = 0.5
    noise: NonNegative = 0.08
    clutter: Natural = 3
    contrast: Annotated[NonNegative, Field(gt=0, le=1)] = 0.5
    size: Annotated[NonNegative, Field(gt=0.05, le=0.9)] = 0.5
    turn: Fraction01 = 1.0
    seed: Natural = 0

    @property
    def expects(self) -> tuple[tuple[int, int, int], int]:
        """Shape (C, H, W) and number of classes."""
        return (3, SIZE, SIZE), self.classes

    def fetch(self, cache: Path) -> Source:
        """Render both splits; nothing is read or downloaded."""
        train = self._split("train", self.train)
        test = self._split("test", self.test)
        return Source(train, test, tuple(SHAPES)[: self.classes])

    def _split(self, name: str, count: int) -> Split:
        rng = numpy_generator(self.seed, "scenes", name)
        labels = rng.permutation(np.arange(count) % self.classes)
        latent = _Latent(rng, count, self)
        follows = rng.random(count) < self.correlation
        free = rng.integers(self.classes, size=count)
        style = np.where(follows, labels, free)
        pictures, mask = latent.render(labels, style, self.classes)
        extra: dict[str, Any] = {"mask": mask, "style": style.astype(np.int64)}
        if name == "test" and self.correlation > 0:
            moved, _ = latent.render(labels, free, self.classes)
            extra |= {"x_do_style": moved, "style_do": free.astype(np.int64)}
        return Split(Images(torch.from_numpy(pictures), torch.from_numpy(labels.astype(np.int64))), extra)


class _Latent:
    """Every cause of a picture except label and style, drawn once, so that style alone can be changed."""

    def __init__(self, rng: np.random.Generator, count: int, spec: Scenes) -> None:
        self.radius = spec.size * rng.uniform(0.75, 1.25, count)
        room = np.maximum(0.0, 0.95 - self.radius)
        self.center = rng.uniform(-1, 1, (count, 2)) * room[:, None]
        self.turn = rng.uniform(-np.pi, np.pi, count) * spec.turn
        self.phase = rng.uniform(0, 2 * np.pi, count)
        self.shade = rng.uniform(0.5, 1.0, count) * spec.contrast * rng.choice([-1, 1], count)
        self.jitter = rng.normal(0, 0.03, (count, 2))
        self.specks = rng.uniform(-1, 1, (spec.clutter, count, 2))
        self.speck_size = rng.uniform(0.06, 0.16, (spec.clutter, count))
        self.speck_shade = rng.uniform(-1, 1, (spec.clutter, count)) * spec.contrast
        self.noise = (rng.standard_normal((count, 3, SIZE, SIZE), dtype=np.float32) * spec.noise).astype(
            np.float32
        )

    def render(
        self, labels: NDArray[np.int64], style: NDArray[np.int64], classes: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pictures (N, 3, 32, 32) uint8 and object masks (N, 32, 32)."""
        axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
        gy, gx = np.meshgrid(axis, axis, indexing="ij")
        pictures = np.empty((len(labels), 3, SIZE, SIZE), np.uint8)
        masks = np.empty((len(labels), SIZE, SIZE), bool)
        names = list(SHAPES)
        hue = style / classes
        ground = 0.5 + 0.22 * (_hue(hue + self.jitter[:, 0]) - 0.5)
        tint = 0.16 * (_hue(hue + 0.5 + self.jitter[:, 1]) - 0.5)
        for i, label in enumerate(labels):
            angle = np.pi * style[i] / classes
            wave = np.sin((gx * np.cos(angle) + gy * np.sin(angle)) * (6 + style[i] % 3 * 3) + self.phase[i])
            picture = ground[i][:, None, None] + 0.08 * wave
            for spot, size, shade in zip(
                self.specks[:, i], self.speck_size[:, i], self.speck_shade[:, i], strict=True
            ):
                alpha = _soft(np.hypot(gx - spot[0], gy - spot[1]) - size)
                picture = picture + alpha * shade
            dx, dy = gx - self.center[i, 0], gy - self.center[i, 1]
            cos, sin = np.cos(self.turn[i]) / self.radius[i], np.sin(self.turn[i]) / self.radius[i]
            inside = SHAPES[names[label]](cos * dx + sin * dy, -sin * dx + cos * dy) * self.radius[i]
            alpha = _soft(inside)
            colour = (0.5 + self.shade[i] + tint[i])[:, None, None]
            picture = picture * (1 - alpha) + alpha * colour + self.noise[i]
            pictures[i] = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
            masks[i] = alpha > 0.5
        return pictures, masks


def _soft(distance: Floats) -> Floats:
    """Coverage in [0, 1] of a soft edge; 1 well inside (negative distance)."""
    return np.clip(0.5 - distance / SOFT, 0.0, 1.0)
