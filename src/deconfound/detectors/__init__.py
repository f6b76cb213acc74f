"""Detectors: is this training image poisoned, this input triggered or adversarial, this model backdoored? A table
maps a kind to its class.
"""

DETECTORS = {
    "activation_clustering": "deconfound.detectors.activation_clustering:ActivationClustering",
    "spectral_signatures": "deconfound.detectors.spectral_signatures:SpectralSignatures",
    "strip": "deconfound.detectors.strip:STRIP",
    "scale_up": "deconfound.detectors.scale_up:ScaleUp",
    "neural_cleanse": "deconfound.detectors.neural_cleanse:NeuralCleanse",
    "lowest_loss": "deconfound.detectors.lowest_loss:LowestLoss",
    "influence": "deconfound.detectors.influence:Influence",
    "stimulation": "deconfound.detectors.stimulation:Stimulation",
    "confidence": "deconfound.detectors.confidence:Confidence",
    "feature_squeezing": "deconfound.detectors.feature_squeezing:FeatureSqueezing",
    "leave_one_out": "deconfound.detectors.ml_loo:LeaveOneOut",
    "ml_loo": "deconfound.detectors.ml_loo:MLLOO",
    "lid": "deconfound.detectors.lid:LID",
    "mahalanobis": "deconfound.detectors.mahalanobis:Mahalanobis",
    "signature": "deconfound.detectors.signature:Signature",
    "witnesses": "deconfound.detectors.witnesses:Witnesses",
}
