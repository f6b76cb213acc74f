"""Detectors: is this training image poisoned, this input triggered, this model backdoored? A table maps a kind to its
class.
"""

DETECTORS: dict[str, str] = {}
