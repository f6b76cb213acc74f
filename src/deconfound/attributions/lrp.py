"""Layer-wise relevance propagation: the scalar, handed back from layer to layer in proportion to what each input
contributed.

Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", PLoS
ONE 10(7), 2015, epsilon rule; gamma rule after Montavon et al., "Layer-Wise Relevance Propagation: An Overview", in
"Explainable AI", Springer 2019.

Relevance belongs to the normalised pixels, that is, to what an image is beyond the mean colour of the training images.
With a small epsilon and no gamma it equals gradient times normalised pixel in a network of ReLUs: not a second opinion
beside InputXGradient. Biases (of a batch norm too) keep a part of the relevance, so that a map sums to the scalar only
without them. Captum has no rule for a plain sum of two branches, and then returns maps that do not add up: networks
with residual connections are refused unless the sum is its `Addition_Module`; and so is a ReLU (or a dropout) at the
start of a branch, through which Captum hands back the gradient of the other branch too.
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from deconfound.attributions.asking import Scalar, ScalarName, check, explained
from deconfound.attributions.rewriting import SHAPES, Known, rewritable
from deconfound.fields import Count, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier

WEIGHTED = (nn.Conv2d, nn.Linear)
RULED = (
    *WEIGHTED,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
PASSED = (nn.ReLU, nn.Tanh, nn.Dropout)
DROPPED = (nn.Identity, nn.Dropout1d, nn.Dropout2d)  # replaced by a Dropout, which Captum passes through
NORMALISING = frozenset({"sub", "div"})


@hyperparameters
class LRP:
    """epsilon: added to the size of every sum of contributions, unit of activations; larger ones absorb relevance and
    noise. gamma: by how much convolutions favour positive weights, 0 for not at all. scalar, chunk: see
    `asking.Attribution`; a margin is handed back as that of the target minus that of the rival.
    """

    epsilon: Positive = 1e-9
    gamma: NonNegative = 0.0
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x; rng is not used. UserError, naming the layer, for a network that relevance cannot follow."""
        from captum.attr._utils.custom_modules import Addition_Module

        check(x, target)
        if not len(x):
            return torch.zeros_like(x, dtype=torch.float32)
        layers = frozenset({*RULED, Addition_Module})
        passing = frozenset({*PASSED, *DROPPED})
        known = Known("lrp", layers | passing, layers | {*PASSED}, SHAPES, NORMALISING, alone=passing)
        twin = rewritable(model, x[:1], known)
        for name, module in list(twin.named_modules()):
            if isinstance(module, DROPPED):
                parent, _, last = name.rpartition(".")
                setattr(twin.get_submodule(parent), last, nn.Dropout(0.0))
        normalised = (x.detach() - model.mean.view(-1, 1, 1)) / model.std.view(-1, 1, 1)
        twin.mean.zero_()
        twin.std.fill_(1)

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            found = self._relevance(asked, z, weights.clamp(min=0), layers)
            if self.scalar == "margin":
                found = found - self._relevance(asked, z, (-weights).clamp(min=0), layers)
            return found

        return explained(twin, normalised, target, part, scalar=self.scalar, chunk=self.chunk)

    def _relevance(self, asked: Scalar, z: Tensor, weights: Tensor, layers: frozenset[Any]) -> Tensor:
        from captum.attr import LRP as CaptumLRP
        from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule

        for module in asked.modules():
            if type(module) in layers:
                favoured = self.gamma and isinstance(module, nn.Conv2d)
                rule = GammaRule(self.gamma) if favoured else EpsilonRule()
                rule.STABILITY_FACTOR = self.epsilon
                module.rule = rule
        leaf = z.detach().clone().requires_grad_(True)
        found: Tensor = CaptumLRP(asked).attribute(leaf, additional_forward_args=(weights,))
        return found.detach()
