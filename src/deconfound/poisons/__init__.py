"""Poisons: who is edited and how. A table maps a kind to its class."""

POISONS = {
    "badnets": "deconfound.poisons.badnets:BadNets",
}
