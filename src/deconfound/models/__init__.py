"""Architectures. A table maps a kind to the class that makes a Classifier."""

MODELS = {
    "small_cnn": "deconfound.models.small_cnn:SmallCNN",
    "wide_resnet": "deconfound.models.wide_resnet:WideResNet",
    "timm": "deconfound.models.timm_models:TimmModel",
    "denoising_cnn": "deconfound.models.denoising_cnn:DenoisingCNN",
}
