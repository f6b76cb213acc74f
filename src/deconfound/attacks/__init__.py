"""Evasion attacks. A table maps a kind to its class."""

ATTACKS = {
    "fgsm": "deconfound.attacks.pgd:FGSM",
    "pgd": "deconfound.attacks.pgd:PGD",
    "transfer": "deconfound.attacks.transfer:Transfer",
}
