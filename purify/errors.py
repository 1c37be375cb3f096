"""The one exception that a user's input can cause."""


class PurifyError(ValueError):
    """Bad input: the message is one sentence that names what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
