"""DeepLIFT and guided backpropagation: gradients with another rule at activations.

Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating Activation Differences", ICML 2017,
arXiv:1704.02685, rescale rule. Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR 2015
workshop, arXiv:1412.6806. Both see modules only, so a network that calls an activation as a function, or one module
twice, is refused; ours with residual blocks of that kind (WideResNet) among them.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Generator, Tensor, nn

from deconfound.attributions.asking import Scalar, ScalarName, check, explained
from deconfound.attributions.baselines import Baseline, BaselineField, averaged
from deconfound.attributions.rewriting import LAYERS, LINEAR, Known, rewritable
from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier

RESCALED = frozenset({nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool2d})
GUIDED = frozenset({nn.ReLU, nn.MaxPool2d})


@hyperparameters
class DeepLift:
    """baseline: the reference. scalar, chunk: see `asking.Attribution`.

    A map sums to the scalar of the image minus that of the reference, but not through max-pooling, where Captum's rule
    is inexact.
    """

    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x; UserError, naming the layer, for a network on which the rule would be wrong."""
        from captum.attr import DeepLift as CaptumDeepLift

        check(x, target)
        known = Known("deep_lift", LAYERS | RESCALED, RESCALED, LINEAR)
        twin = rewritable(model, x[:1], known) if len(x) else model
        make = self.baseline.maker(model, x.shape[1:], rng=rng)

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            def maps(baseline: Tensor) -> Tensor:
                with _quiet():
                    found: Tensor = CaptumDeepLift(asked).attribute(
                        z, baselines=baseline, additional_forward_args=(weights,)
                    )
                return found.detach()

            return averaged(make, z, maps)

        return explained(twin, x, target, part, scalar=self.scalar, chunk=self.chunk)


@hyperparameters
class GuidedBackprop:
    """The gradient without what is negative at a ReLU. scalar, chunk: see `asking.Attribution`.

    It depends little on the weights of the upper layers (Adebayo et al. 2018): a picture of edges more than evidence.
    """

    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x; rng is not used. UserError, naming the layer, for a network on which the rule would be wrong."""
        from captum.attr import GuidedBackprop as CaptumGuided

        check(x, target)
        known = Known("guided_backprop", LAYERS | GUIDED, frozenset({nn.ReLU}), LINEAR)
        twin = rewritable(model, x[:1], known) if len(x) else model

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            with _quiet():
                found: Tensor = CaptumGuided(asked).attribute(z, additional_forward_args=(weights,))
            return found

        return explained(twin, x, target, part, scalar=self.scalar, chunk=self.chunk)


@contextmanager
def _quiet() -> Iterator[None]:
    """Captum warns of the hooks that it sets; here they are set on a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting .*hooks", category=UserWarning)
        yield
