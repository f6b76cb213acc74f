"""Defenses. A table maps a kind to its class; base training is the defense called `standard`."""

DEFENSES = {
    "standard": "deconfound.defenses.standard:Standard",
    "adversarial_training": "deconfound.defenses.adversarial_training:AdversarialTraining",
    "trades": "deconfound.defenses.trades:TRADES",
    "cbd": "deconfound.defenses.cbd:CBD",
}
