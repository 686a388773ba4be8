"""The one error type for what a user handed over: data, folders, artefacts."""


class DataError(ValueError):
    """Input that cannot be used: one line that names what, the value found and what to do.

    The command line prints it without a traceback and exits with code 1.
    """


class DataWarning(UserWarning):
    """Input that can be used, and may not be what its owner believes: one line that says why, and what to do.

    The command line prints it on standard error.
    """
