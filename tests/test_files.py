"""Files that are damaged or foreign: one line for each, and nothing is waited for."""

import os

import pytest

from cljax import files
from cljax.errors import UserError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": [-Infinity]}', "-Infinity is not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": 1' + "0" * 400 + "}", "10000000000000000000 is not a finite number"),
        ('{"a": 1' + "0" * 9000 + "}", "is not a finite number"),
        ("", "not valid JSON"),
        ("null", "not a JSON object"),
        ("[{}]", "not a JSON object"),
    ],
)
def test_json_that_is_not_the_standards_is_one_line(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError) as error:
        files.read_json(tmp_path / "a.json")
    message = str(error.value)
    assert f"{tmp_path}/a.json: " in message and words in message
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "too long"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / ("x" * 5000 if kind == "too long" else "a.json")
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "device":
        path.symlink_to("/dev/zero")
    if kind == "directory":
        path.mkdir()
    with pytest.raises(UserError, match="cannot read "):
        files.read_json(path)


def test_a_path_that_is_not_utf8_is_written_and_read(tmp_path):
    value = {"path": os.fsdecode(b"caf\xe9")}
    files.write_json_atomically(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
