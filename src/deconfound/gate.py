"""What an experiment says of the trust gate; the gate itself is `trust`."""

from deconfound.fields import Count, Fraction01, hyperparameters


@hyperparameters
class Gate:
    """What the gate spends on a model. examples: images (the first ones of the test split); tolerance: part of them
    that a probe may break beyond the reported attacks; steps and restarts: of the stronger PGD; queries: of the
    black-box attack; draws: of random noise per image.
    """

    examples: Count = 100
    tolerance: Fraction01 = 0.01
    steps: Count = 100
    restarts: Count = 5
    queries: Count = 500
    draws: Count = 10
