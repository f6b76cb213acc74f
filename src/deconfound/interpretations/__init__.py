"""What can be read off a trained model: where its evidence lies, and who can tell. A table maps a kind to its class."""

INTERPRETATIONS = {
    "attribution_shift": "deconfound.interpretations.shift:AttributionShift",
    "map_trust": "deconfound.interpretations.trust:MapTrust",
    "explanation_attack": "deconfound.interpretations.explaining:AttackedExplanation",
    "adversarial_detection": "deconfound.interpretations.detection:AdversarialDetection",
    "object_mass": "deconfound.interpretations.mass:ObjectMass",
    "trigger_mass": "deconfound.interpretations.mass:TriggerMass",
    "style_dependence": "deconfound.interpretations.style:StyleDependence",
    "patterns": "deconfound.interpretations.patterns:Patterns",
    "robust_interpretability": "deconfound.interpretations.gradients:RobustInterpretability",
    "components": "deconfound.interpretations.components:Components",
    "prune_curve": "deconfound.interpretations.pruning:PruneCurve",
    "concepts": "deconfound.interpretations.concepts:Concepts",
    "influence_poisoning": "deconfound.interpretations.poisoning:InfluencePoisoning",
    "influential_examples": "deconfound.interpretations.examples:InfluentialExamples",
    "poison_forensics": "deconfound.interpretations.forensics:PoisonForensics",
    "trigger_inversion": "deconfound.interpretations.inverted:TriggerInversion",
}
