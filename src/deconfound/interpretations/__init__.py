"""What can be read off a trained model: where its evidence lies, and who can tell. A table maps a kind to its class."""

INTERPRETATIONS: dict[str, str] = {}
