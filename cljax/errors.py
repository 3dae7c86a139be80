"""Mistakes that are the user's to mend."""


class UserError(Exception):
    """A wrong setting, path or file; its message is one line that says what to do about it."""
