"""Errors that a user can act on: one message, exit status 1, no traceback."""


class UserError(Exception):
    """Something outside the program is wrong; the message says what, where, and what to do."""


class ConfigError(UserError):
    """An experiment asks for something unknown, mistyped or impossible."""


class DataError(UserError):
    """A data file is missing, corrupt, foreign, or not what its checksum promises."""


class AttackError(UserError):
    """A model, an image or a label that no attack can work with; the message names it, with expected and got."""


class NoGradientError(AttackError):
    """The logits of a model have no gradient by its images, so that nothing can ascend."""


class ModelRaisedError(AttackError):
    """A model raised an exception instead of answering a legal image."""
