"""Names are text: what a terminal and files are given of them."""

import io

import pytest
from rich.console import Console

from cljax.errors import UserError, print_plain, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name", "plain name"),
        ("Tür $0_$10 日本", "Tür $0_$10 日本"),
        ("a\x1b[31mb\a", r"a\x1b[31mb\x07"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9", r"caf\udce9"),
        (r"a\b'c", r"a\b'c"),
    ],
)
def test_what_cannot_be_printed_is_written_out(name, shown):
    assert printable(name) == shown
    shown.encode()
    assert "\x1b" not in str(UserError(name))
    console = Console(file=io.StringIO(), force_terminal=True, width=20, color_system=None)
    print_plain(console, f"[red]{printable(name)}:cat:")
    assert console.file.getvalue() == f"[red]{shown}:cat:\n"
