"""The one error that a user can mend: run.py prints its message as a single line and exits with code 1."""


class UserError(Exception):
    """Bad input from outside (a key, a value, a folder, a file); the message says what is wrong and what to do."""


def first_line(error: Exception) -> str:
    """The first line of another library's message, to be quoted in one of ours; two, where the first announces it."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 2 if lines[0].rstrip().endswith(":") else 1])
