"""The exceptions that a user's input, or a user's machine, can cause."""


class PurifyError(ValueError):
    """Bad input: the message is one sentence that names what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class DiskFullError(PurifyError):
    """No space is left: nothing more can be stored, and going on would be of no use."""
