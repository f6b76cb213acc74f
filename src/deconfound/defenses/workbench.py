"""What a defense is handed and what it hands back. It never sees the poison mask or the test split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.types import Array, Images, Objective, Term

Watch = Callable[[int, nn.Module], bool]
"""Called with the number of steps taken and the model in evaluation mode; True ends the training."""

Validate = Callable[[Classifier], float]
"""Accuracy on held-out images that an epoch is judged by; the model comes in evaluation mode."""

Validation = Literal["none", "track", "best"]
"""What is done with robust accuracy on `val` after each epoch: nothing, recorded, or the best epoch's weights kept."""


class Pace(NamedTuple):
    """Where a training stands before a batch: epoch counts from 0; fraction of all steps, in [0, 1)."""

    epoch: int
    epochs: int
    fraction: float

    @property
    def ramp(self) -> float:
        """epoch / epochs: grows linearly from 0, constant within an epoch."""
        return self.epoch / self.epochs


class Fit(Protocol):
    """The only training loop, as a defense sees it."""

    def __call__(
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
        """Minimise `objective` over the training set, or over `data` instead (held-out images, a part of the
        training set). phase names the random streams, the history and the
        file of a killed run; recipe defaults to the run's own; watch is called every `every` steps; validate after
        every epoch, and with keep_best the weights of its best epoch (the first of equals) are what remains.
        Returns the number of steps taken."""


@dataclass(frozen=True)
class Workbench:
    """data: training images as delivered (perhaps poisoned); val: held-out images, cut before any poisoning.

    network(purpose): a fresh network of the run's architecture, normalised for `data`; the purpose selects
    the initialisation. start: the network of the run that the defense starts from, if it asked for one; crafted:
    adversarial images (N, C, H, W) in [0, 1] of `data` that were crafted on that run, if it asked for them.
    rng(purpose): a generator of the run's seed.
    """

    data: Images
    val: Images
    recipe: Recipe
    network: Callable[[str], Classifier]
    rng: Callable[[str], Generator]
    fit: Fit
    start: Classifier | None = None
    crafted: Tensor | None = None

    def begin(self) -> Classifier:
        """The network to train: the one of the run that the defense starts from, or a fresh one."""
        return self.start if self.start is not None else self.network("model")


@dataclass(frozen=True)
class Defended:
    """The network, arrays per training example for later scoring, scalar remarks for the record, and the tensors of
    further networks that an attacker of this defense knows and a measure of it reads.
    """

    model: Classifier
    trace: Mapping[str, Array] = field(default_factory=dict)
    notes: Mapping[str, float | str] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Adaptive:
    """How somebody who knows a defense attacks it: kinds of evasion attacks, or of poisons, any of which will do, and
    why these. Nothing is believed of a defense that nobody has tried to break on purpose.
    """

    why: str
    attacks: tuple[str, ...] = ()
    poisons: tuple[str, ...] = ()


GRADIENT = ("pgd", "apgd", "apgd_targeted", "autoattack")
PLAIN = Adaptive(
    "a network without further parts: gradient ascent on its own loss already knows all of it", GRADIENT
)


class Defense(Protocol):
    """A way to train: frozen hyper-parameters, called once per run."""

    adaptive: ClassVar[Adaptive]

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the bench and hand back the network."""


@runtime_checkable
class Composed(Protocol):
    """A defense that trains against more than the classifier's own loss, and can say what."""

    def term(self, model: Classifier, parts: Mapping[str, Tensor]) -> Term:
        """The further term of its loss, for the adaptive attack; parts: as handed back with the network."""


@runtime_checkable
class Stateful(Protocol):
    """An objective with networks of its own; the loop stores them with a half-trained model."""

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""


@runtime_checkable
class Paced(Protocol):
    """An objective that changes over the training."""

    def pace(self, at: Pace) -> None:
        """Called before each batch."""


@runtime_checkable
class Stepped(Protocol):
    """An objective that has something to put right once the optimiser has moved the weights."""

    def after_step(self, model: nn.Module) -> None:
        """Called after each step of the optimiser."""
