"""Sources of images. A table maps a kind to the class that fetches it."""

DATASETS = {
    "digits": "deconfound.data.digits:Digits",
    "scenes": "deconfound.data.scenes:Scenes",
    "torchvision": "deconfound.data.torchvision_sets:TorchvisionSet",
    "image_folder": "deconfound.data.image_folder:ImageFolder",
}
