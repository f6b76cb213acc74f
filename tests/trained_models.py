"""Small networks trained on the bundled digits: undefended, and with the two plain defenses."""

from functools import cache, partial
from pathlib import Path

from oracle_models import CPU

from deconfound.attacks.ascent import Ascent
from deconfound.data.digits import Digits
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.standard import Standard
from deconfound.defenses.trades import TRADES
from deconfound.defenses.workbench import Workbench
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.threat import ThreatModel
from deconfound.training import Trainer
from deconfound.types import Images

EPS = 0.2
ASCENT = Ascent(threat=ThreatModel(eps=EPS), step_size=0.05, steps=7)
HONEST = {
    "standard": Standard(),
    "adversarial_training": AdversarialTraining(ascent=ASCENT),
    "trades": TRADES(ascent=ASCENT),
}


@cache
def digits() -> tuple[Images, Images]:
    source = Digits(test=500).fetch(Path())
    return source.train.images, source.test.images


@cache
def trained(name: str) -> Classifier:
    """A small network on the bundled digits: a few seconds each, once per worker."""
    train, test = digits()
    recipe = Recipe(epochs=10 if name == "standard" else 15, batch_size=64, lr=0.05)

    def network(purpose: str) -> Classifier:
        with global_seed(generator(0, "init", purpose)):
            model = SmallCNN(widths=(8, 16), hidden=32)((1, 8, 8), 10)
        model.normalise_like(train.x)
        return model

    trainer = Trainer(train, test, recipe, 0, CPU)
    bench = Workbench(train, test, recipe, network, partial(generator, 0), trainer.fit)
    return HONEST[name](bench).model.eval()
