"""Defines UserError, the error for wrong settings, paths and files."""


class UserError(Exception):
    """Reports a wrong setting, path or file in one line that says what to do."""
