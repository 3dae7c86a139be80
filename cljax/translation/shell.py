"""Finds the arguments of one command in a piece of a shell script."""

import re
import shlex
from collections.abc import Iterator, Mapping

from cljax.errors import UserError
from cljax.translation import shown

_LONGEST = 2**16  # characters of a variable's value; each may hold others twice
_ASSIGNMENT = re.compile(r"(\w+)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^{}]*))?\})")
_REDIRECTION = re.compile(r"(?<=\s)(?:[012&]?>{1,2}|<)\s*(?:&[012]|[^\s;&|]+)")


def find_arguments(text: str, program: str, where: str) -> tuple[list[str], dict[str, str]]:
    """Returns the arguments of the only command in `text` that runs `program`.

    Lines that end with a backslash continue on the next line. Variables that are set before the
    command are replaced, as are defaults such as ${1:-0}; redirections and other commands have no
    effect. Nothing is executed.

    Args:
      text: lines of a script; text that begins with "-" is the arguments alone.
      program: name of the program's file, such as "run.py".
      where: names the text in messages.

    Returns:
      The arguments, and the variables of the command's environment (NAME=VALUE before it).

    Raises:
      UserError: quotes do not match, a variable has no value, or there is no or no single command.
    """
    if text.lstrip().startswith("-"):
        text = " ".join([program, *re.split(r"\\?\r?\n", text.strip())])
    found = list(_commands(text, program, where))
    if len(found) != 1:
        raise UserError(
            f"{where}: has {len(found)} commands with {program}; give it one, or the options alone"
        )
    return found[0]


def _commands(text, program, where) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yields arguments and environment of each command that runs `program`."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        for words in _split(line, where):
            environment: dict[str, str] = {}
            while words and (match := _ASSIGNMENT.fullmatch(words[0])):
                environment[match[1]] = " ".join(_expand(match[2], variables, where))
                words = words[1:]
            places = [i for i, w in enumerate(words) if w.rpartition("/")[2] == program]
            if places:
                after = words[places[-1] + 1 :]
                yield [part for w in after for part in _expand(w, variables, where)], environment
            elif not words:
                variables |= environment
            elif words[0].startswith("-"):
                raise UserError(
                    f"{where}: {shown(words[0])}: a line begins with an option; end the line "
                    "before it with a backslash"
                )


def _split(line: str, where: str) -> Iterator[list[str]]:
    """Yields the words of each command of a line."""
    lexer = shlex.shlex(_REDIRECTION.sub("", line), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in lexer:
            if word and not word.strip(";&|"):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError as error:
        raise UserError(
            f"{where}: {str(error).lower()} in {shown(line.strip())}; quotes must come in pairs"
        ) from error
    yield words


def _expand(word: str, variables: Mapping[str, str], where: str) -> list[str]:
    """Replaces the variables of a word; returns the words that it then has."""
    if "$" not in word and "`" not in word:
        return [word]

    def value(match):
        name = match[1] or match[2]
        if name in variables:
            return variables[name]
        if match[3] is None:
            raise UserError(f"{where}: the variable ${name} has no value; write its value instead")
        return " ".join(_expand(match[3], variables, where))

    # A default may be a variable, so the innermost braces come first.
    text = word
    while (replaced := _VARIABLE.sub(value, text)) != text:
        text = replaced
        if len(text) > _LONGEST:
            raise UserError(f"{where}: {shown(word)}: its value is too long")
    if "$" in text or "`" in text:
        raise UserError(f"{where}: {shown(word)}: commands in words are not run; write its value")
    return text.split()
