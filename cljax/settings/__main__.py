"""Prints the table of settings that docs/configuration.md has: `python -m cljax.settings`."""

from cljax.settings import markdown

if __name__ == "__main__":
    print(markdown(), end="")
