"""The sheets of pictures of each kind, from what its interpretation left."""

from collections.abc import Callable, Mapping

from deconfound.report.interpretation import galleries_forensics, galleries_maps, galleries_models
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.interpretation.sheets import Arrays, Marks
from deconfound.report.interpretation.strips import Sheet

MAKERS: Mapping[str, Callable[[Interpreted, str, Arrays, Marks], list[Sheet]]] = {
    "attribution_shift": galleries_maps.shift,
    "explanation_attack": galleries_maps.explanation,
    "object_mass": galleries_maps.mass,
    "trigger_mass": galleries_maps.mass,
    "robust_interpretability": galleries_maps.gradients,
    "patterns": galleries_maps.patterns,
    "style_dependence": galleries_maps.style,
    "components": galleries_models.components,
    "concepts": galleries_models.concepts,
    "influential_examples": galleries_models.influence,
    "influence_poisoning": galleries_models.poisoning,
    "poison_forensics": galleries_forensics.heads,
    "trigger_inversion": galleries_forensics.reversed_triggers,
}


def sheets(one: Interpreted, name: str, marks: Marks) -> list[Sheet]:
    """The sheets of a block of a run; none for a kind that leaves no pictures."""
    arrays = one.drawn(name)
    make = MAKERS.get(one.kind(name))
    return make(one, name, arrays, marks) if make and arrays else []
