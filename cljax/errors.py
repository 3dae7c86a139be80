"""Defines UserError, the error for wrong settings, paths and files."""


class UserError(Exception):
    """A wrong setting, path or file; its message is one line that says what to do about it."""
