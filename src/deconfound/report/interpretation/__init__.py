"""The page of interpretations: what was read off the models, and how each number is to be read."""
