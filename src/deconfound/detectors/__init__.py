"""Detectors: is this training image poisoned, this input triggered, this model backdoored? A table maps a kind to its
class.
"""

DETECTORS = {
    "activation_clustering": "deconfound.detectors.activation_clustering:ActivationClustering",
    "spectral_signatures": "deconfound.detectors.spectral_signatures:SpectralSignatures",
    "strip": "deconfound.detectors.strip:STRIP",
    "scale_up": "deconfound.detectors.scale_up:ScaleUp",
    "neural_cleanse": "deconfound.detectors.neural_cleanse:NeuralCleanse",
    "lowest_loss": "deconfound.detectors.lowest_loss:LowestLoss",
}
