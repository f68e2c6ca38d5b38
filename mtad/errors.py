"""The one error that a user can mend: run.py prints its message as a single line and exits with code 1."""


class UserError(Exception):
    """Bad input from outside (a key, a value, a folder, a file); the message says what is wrong and what to do."""
