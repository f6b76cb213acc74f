"""Fine-tuning: plain training of a copy, on the clean images."""

from oracle_models import CPU, same
from repair_benches import RECIPE, bench

from deconfound.defenses.fine_tuning import FineTuning
from deconfound.defenses.repair import accuracy, gently, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.training import Trainer


def test_fine_tuning_is_training_on_the_clean_images_at_the_stated_rate() -> None:
    room = bench()
    done = FineTuning(epochs=3, lr=0.02, weight_decay=0.01)(room)
    assert room.start is not None
    model = suspect(room)
    recipe = gently(RECIPE, epochs=3, lr=0.02, weight_decay=0.01)
    Trainer(room.val, room.val, recipe, 0, CPU).fit(model, cross_entropy)
    assert same(dict(done.model.state_dict()), dict(model.state_dict()))
    assert done.notes["accuracy_before"] == accuracy(room.start, room.val)
