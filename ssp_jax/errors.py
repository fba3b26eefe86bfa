"""The one exception that is meant for a person."""


class UserError(Exception):
    """Something the user can mend: data, a config key, a folder, a file.

    The message says what was wrong, where (file, clip or config key), what was expected and what
    to do. Commands print it without a traceback and exit with status 1.
    """
