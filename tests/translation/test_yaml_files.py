"""Files with includes are merged as LibContinual does; hostile ones end in one line."""

import os

import pytest

from cljax.errors import UserError
from cljax.translation.yaml_files import read_with_includes


def write(folder, **files):
    """Writes files; the first one's path. `_` in a name stands for a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('_', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / f"{next(iter(files)).replace('_', '/')}.yaml"


def test_later_files_and_the_file_itself_win_and_blocks_are_replaced(tmp_path):
    path = write(
        tmp_path,
        mine="includes:\n- one.yaml\n- headers/two.yaml\nc: 3\nblock: {x: 1}\n",
        one="a: 1\nb: 1\nc: 1\nblock: {x: 0, y: 0}\n",
        headers_two="b: 2\nc: 2\n",
    )
    values, headers, _ = read_with_includes(path)
    assert values == {"a": 1, "b": 2, "c": 3, "block": {"x": 1}}
    assert headers == {}


def test_includes_of_a_file_in_a_folder_of_configs(tmp_path):
    """LibContinual has config/METHOD/FILE.yaml, which includes config/headers/FILE.yaml."""
    path = write(tmp_path, config_bic_mine="includes: [headers/a.yaml]", config_headers_a="a: 1")
    assert read_with_includes(path) == ({"a": 1}, {}, [])


def test_missing_headers_have_libcontinuals_values(tmp_path):
    path = write(tmp_path, mine="includes: [headers/model.yaml]\na: 1")
    note = "includes headers/model.yaml: not found; LibContinual's own values are used"
    assert read_with_includes(path) == ({"a": 1}, {}, [note])


def test_headers_are_defaults_wherever_they_stand(tmp_path):
    path = write(
        tmp_path,
        mine="includes: [one.yaml, headers/model.yaml, headers/data.yaml]\na: 1",
        one="b: 1",
        headers_model="a: 2\nb: 2\nc: 2",
        headers_data="d: 3\nc: 3",
    )
    assert read_with_includes(path) == ({"a": 1, "b": 1}, {"c": 3, "d": 3}, [])


def test_an_included_file_includes_nothing(tmp_path):
    path = write(
        tmp_path, mine="includes: [one.yaml]", one="includes: [two.yaml]\na: 1", two="b: 1"
    )
    note = "one.yaml includes two.yaml: LibContinual does not follow it"
    assert read_with_includes(path) == ({"a": 1}, {}, [note])


def test_a_key_twice_and_anchors_as_libcontinuals_files_have_them(tmp_path):
    path = write(tmp_path, mine="a: &a 1\nb: &list [1, 2]\na: 2\nc: *a\nd: [*list, *list]")
    assert read_with_includes(path)[0] == {"a": 2, "b": [1, 2], "c": 1, "d": [[1, 2], [1, 2]]}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mine": "includes: [mine.yaml]"}, "include each other in a circle"),
        ({"mine": "includes: [b.yaml]", "b": "includes: [mine.yaml]"}, "in a circle"),
        ({"mine": "includes: [c/../mine.yaml]", "c_x": ""}, "in a circle"),
        ({"mine": "includes: [none.yaml]"}, "includes none.yaml: no such file beside it"),
        ({"mine": "includes: [../b.yaml]"}, "includes ../b.yaml: leads out of"),
        ({"mine": "includes: [/etc/passwd]"}, "includes /etc/passwd: leads out of"),
        ({"mine": 'includes: ["a\\0b"]'}, "includes a\\x00b: "),
        ({"mine": f"includes: [{'x' * 5000}]"}, "File name too long"),
        ({"mine": "includes: mine.yaml"}, "must be a list of file names"),
        ({"mine": "includes: [[1]]"}, "must be a list of file names"),
        ({"mine": "includes: [b.yaml]", "b": "[1]"}, "b.yaml as YAML: no keys and values"),
    ],
)
def test_a_wrong_include_is_one_line(tmp_path, files, words):
    path = write(tmp_path, **files)
    with pytest.raises(UserError) as error:
        read_with_includes(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_that_leads_out_is_refused(tmp_path):
    path = write(tmp_path, a_mine="includes: [link.yaml]", secret="password: 1")
    os.symlink(tmp_path / "secret.yaml", tmp_path / "a" / "link.yaml")
    with pytest.raises(UserError, match=r"link\.yaml: leads out of"):
        read_with_includes(path)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)
)
PAIRS = "a0: &a0 x\n" + "".join(
    f"a{i}: &a{i} !!pairs [x: *a{i - 1}, y: *a{i - 1}]\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no keys and values"),
        ("just text", "no keys and values"),
        ("- 1", "no keys and values"),
        ("a: [1", "line 1: expected"),
        ("a: 1\n b: 2", "line 2: mapping values are not allowed here"),
        ("a: !!python/object/apply:os.system [x]", "line 1: could not determine a constructor"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: *b", "line 1: found undefined alias"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: \x01", "special characters are not allowed"),
        ("a: &a [*a]", "too many values, or nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (LAUGHS, "too many values, or nested too deeply"),
        (PAIRS, "too many values, or nested too deeply"),
        (MERGES, "merge keys (<<) are not supported"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: 0x" + "9" * 5000, "a number of more than 64 bits"),
        ("a: " + "x" * 70_000, "more than 65536 bytes"),
    ],
)
def test_a_damaged_or_hostile_file_is_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read_with_includes(write(tmp_path, mine=text))
    assert words in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "binary").write_bytes(b"a: \xff\xfe\xfd")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "No such file"), (".", ""), ("pipe", ""), ("binary", "YAML")):
        with pytest.raises(UserError, match="cannot read") as error:
            read_with_includes(tmp_path / name)
        assert words in str(error.value) and "\n" not in str(error.value)
