"""EOT, expectation over transformation: the mean gradient over many evaluations of a model that draws.

Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018, section 2.2; "Obfuscated Gradients Give a False
Sense of Security", ICML 2018, section 4.2. The mean is taken over gradients of the score, not over logits.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from pydantic import field_validator
from torch import Generator, Tensor, nn

from deconfound.attacks import ATTACKS
from deconfound.fields import Count, hyperparameters
from deconfound.registry import build
from deconfound.threat import ThreatModel


@hyperparameters
class EOT:
    """attack: the block of an attack that ascends ({kind: pgd, eps: 8/255, ...}); samples: evaluations whose mean
    gradient each of its steps takes.
    """

    attack: dict[str, Any]
    samples: Count = 20

    @field_validator("attack")
    @classmethod
    def _ascends(cls, block: Mapping[str, Any]) -> Mapping[str, Any]:
        if "samples" not in {field.name for field in fields(_built(block))}:
            raise ValueError(
                f"expected an attack that ascends, such as pgd or apgd, got {block.get('kind')!r}"
            )
        return block

    @property
    def inner(self) -> Any:
        """The attack, with as many samples."""
        return replace(_built(self.attack), samples=self.samples)

    @property
    def threat(self) -> ThreatModel:
        """The budget of the attack."""
        threat: ThreatModel = self.inner.threat
        return threat

    def at(self, **changes: Any) -> "EOT":
        """The same with other parameters of the inner attack, such as eps."""
        return replace(self, attack={**self.attack, **changes})

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """What the attack returns."""
        found: Tensor = self.inner(model, x, y, rng=rng)
        return found


def _built(block: Mapping[str, Any]) -> Any:
    return build(ATTACKS, block, at="attack")
