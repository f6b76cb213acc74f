"""Architectures. A table maps a kind to the class that makes a Classifier."""

MODELS = {
    "small_cnn": "deconfound.models.small_cnn:SmallCNN",
    "timm": "deconfound.models.timm_models:TimmModel",
}
