"""Every error that moltune raises on purpose.

A message names the row, file, option or tensor at fault and says what to do about it. The command line prints
the message alone and exits with :attr:`MoltuneError.exit_code`; a traceback means a bug.
"""


class MoltuneError(Exception):
    """Base class. ``exit_code`` is what the command line returns: 2 for bad usage or input, 1 for a failure."""

    exit_code = 1


class InputError(MoltuneError, ValueError):
    """Something that the user handed over cannot be used as it is."""

    exit_code = 2


class DataError(InputError):
    """A table, a column, a row or a split cannot be used."""


class TargetNotFoundError(DataError):
    """No column is named as the target and none is obvious, or the obvious one is no target."""


class ConfigError(InputError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class CheckpointError(InputError):
    """A checkpoint is missing, incomplete, of another architecture, or in a format that is not loaded."""


class RunFolderError(InputError):
    """A run folder exists already, is incomplete, or does not belong to these settings."""


class NumericsError(MoltuneError, ArithmeticError):
    """A loss, gradient, target or prediction is not finite."""


def one_line(error: Exception) -> str:
    """The message of a library's error as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
