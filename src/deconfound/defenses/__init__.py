"""Defenses. A table maps a kind to its class; base training is the defense called `standard`."""

DEFENSES = {
    "standard": "deconfound.defenses.standard:Standard",
    "adversarial_training": "deconfound.defenses.adversarial_training:AdversarialTraining",
    "trades": "deconfound.defenses.trades:TRADES",
    "mart": "deconfound.defenses.mart:MART",
    "awp": "deconfound.defenses.awp:AWP",
    "help": "deconfound.defenses.help:HELP",
    "causaladv": "deconfound.defenses.causaladv:CausalAdv",
    "adml": "deconfound.defenses.adml:ADML",
    "namid": "deconfound.defenses.namid:NAMID",
    "wmim": "deconfound.defenses.wmim:WMIM",
    "cbd": "deconfound.defenses.cbd:CBD",
}
