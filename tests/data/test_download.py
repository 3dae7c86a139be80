"""Downloads: verified, resumed, and one line for whatever goes wrong."""

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cljax.data import download
from cljax.data.download import RemoteFile, fetch
from cljax.errors import UserError
from tests.helpers.cifar_archives import Server, remote

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CUT = 2**18  # bytes after which a connection breaks: whole pieces
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.tar.gz").write_bytes(CONTENT)
    with Server(tmp_path / "served") as server:
        yield server


@pytest.fixture
def wanted(server, tmp_path):
    return remote(tmp_path / "served" / "file.tar.gz", server.url)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "downloads"


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def part(folder):
    (path,) = folder.glob(".*.part")
    return path


def test_download_once(server, wanted, folder):
    path = fetch(wanted, folder)
    assert path == folder / "file.tar.gz" and path.read_bytes() == CONTENT
    assert fetch(wanted, folder) == path
    assert len(server.requests) == 1
    assert names(folder) == {"file.tar.gz"}


def test_a_file_brought_by_hand_is_taken(server, wanted, folder):
    folder.mkdir(parents=True)
    (folder / "file.tar.gz").write_bytes(CONTENT)
    fetch(wanted, folder)
    assert server.requests == []


def test_a_damaged_file_is_replaced(server, wanted, folder):
    folder.mkdir(parents=True)
    (folder / "file.tar.gz").write_bytes(CONTENT[:-1])
    assert fetch(wanted, folder).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_continued(server, wanted, folder, ranges):
    server.cut_after, server.ranges = [CUT, CUT] if ranges else [CUT], ranges
    assert fetch(wanted, folder).read_bytes() == CONTENT
    expected = [f"bytes={CUT}-", f"bytes={2 * CUT}-"] if ranges else [f"bytes={CUT}-"]
    assert [wanted for _, wanted in server.requests][1:][: len(expected)] == expected


def test_a_connection_that_brings_nothing_ends_the_download(server, wanted, folder):
    server.cut_after = [CUT, 0]
    with pytest.raises(UserError, match="cannot download http://127"):
        fetch(wanted, folder)
    assert names(folder) == {part(folder).name}
    assert part(folder).read_bytes() == CONTENT[:CUT]
    assert fetch(wanted, folder).read_bytes() == CONTENT
    assert server.requests[-1][1] == f"bytes={CUT}-"


def test_a_wrong_part_is_downloaded_again(server, wanted, folder):
    server.cut_after = [CUT, 0]
    with pytest.raises(UserError):
        fetch(wanted, folder)
    part(folder).write_bytes(bytes(CUT))
    assert fetch(wanted, folder).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests[-2:]] == [f"bytes={CUT}-", None]


def test_a_part_that_is_too_long_is_dropped(server, wanted, folder):
    server.cut_after = [CUT, 0]
    with pytest.raises(UserError):
        fetch(wanted, folder)
    part(folder).write_bytes(CONTENT + b"more")
    assert fetch(wanted, folder).read_bytes() == CONTENT


def fails(wanted, folder, *words):
    with pytest.raises(UserError) as error:
        fetch(wanted, folder)
    assert "\n" not in str(error.value)
    for word in (wanted.url, *words):
        assert word in str(error.value)
    assert not (folder / "file.tar.gz").exists()


def test_a_wrong_sum(server, wanted, folder):
    fails(RemoteFile(wanted.url, wanted.size, "0" * 64), folder, "another SHA-256 sum")
    assert names(folder) == set()


def test_a_wrong_size(server, wanted, folder):
    fails(
        RemoteFile(wanted.url, 999, wanted.sha256),
        folder,
        "the server offers 1,048,576 bytes; expected 999",
    )


def test_a_login_page(server, wanted, folder):
    server.page = b"<html>Please log in</html>"
    fails(wanted, folder, "answered with a web page")
    assert names(folder) == set()


def test_an_error_of_the_server(server, wanted, folder):
    server.status = 404
    fails(wanted, folder, "the server answered 404 Not Found")


def test_no_server(folder):
    fails(RemoteFile("http://127.0.0.1:9/file.tar.gz", 5, "0"), folder, "Connection refused")


def test_no_network(folder):
    fails(RemoteFile("http://no-such-host.invalid/file.tar.gz", 5, "0"), folder, "not known")


def test_a_proxy_of_the_environment_is_asked(server, wanted, folder, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    elsewhere = RemoteFile("http://no-such-host.invalid/file.tar.gz", wanted.size, wanted.sha256)
    with pytest.raises(UserError):
        fetch(elsewhere, folder)
    assert server.requests == [("http://no-such-host.invalid/file.tar.gz", None)]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk(server, wanted, folder):
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
        fails(wanted, folder, "(1 MB)", f"cannot write {folder}: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert fetch(wanted, folder).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=500000-"


def test_a_folder_that_cannot_be_made(wanted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file.downloads: Not a directory"):
        fetch(wanted, tmp_path / "file" / "downloads")


SCRIPT = """
import sys
from pathlib import Path
from cljax.data.download import RemoteFile, fetch

url, size, digest, folder = sys.argv[1:]
print(fetch(RemoteFile(url, int(size), digest), Path(folder)).stat().st_size)
"""


def start(wanted, folder):
    arguments = wanted.url, str(wanted.size), wanted.sha256, str(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_part(folder, process):
    for _ in range(600):
        if any(path.stat().st_size for path in folder.glob(".*.part")):
            return
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.1)
    raise AssertionError("nothing was downloaded")


def test_two_processes_at_once_download_one_file(server, wanted, folder):
    server.wait = threading.Event()
    first = start(wanted, folder)
    wait_for_part(folder, first)
    second = start(wanted, folder)
    threading.Event().wait(1.0)  # the second has the time to spoil the part
    server.wait.set()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, str(len(CONTENT))), err
    assert len(server.requests) == 1
    assert names(folder) == {"file.tar.gz"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_was_stopped_is_continued_by_the_next(server, wanted, folder, number):
    server.wait = threading.Event()
    process = start(wanted, folder)
    wait_for_part(folder, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    server.wait.set()
    assert process.returncode != 0 and not (folder / "file.tar.gz").exists()
    assert fetch(wanted, folder).read_bytes() == CONTENT
    (_, first), (_, second) = server.requests
    assert first is None and second.startswith("bytes=")


def test_hosts_have_parts_of_their_own_and_old_ones_go(server, wanted, folder, monkeypatch):
    server.cut_after = [CUT, 0]
    with pytest.raises(UserError):
        fetch(wanted, folder)
    other = part(folder)
    monkeypatch.setattr(download.platform, "node", lambda: "another-host")
    fetch(wanted, folder)
    assert server.requests[-1][1] is None
    assert other.read_bytes() == CONTENT[:CUT]
    os.utime(other, (1, 1))
    (folder / "file.tar.gz").unlink()
    fetch(wanted, folder)
    assert not other.exists()


def test_progress_where_there_is_no_terminal(server, wanted, folder, caplog, monkeypatch):
    monkeypatch.setattr(download, "_PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(logging.getLogger("cljax"), "propagate", True)
    with caplog.at_level(logging.INFO, "cljax"):
        fetch(wanted, folder)
    assert f"downloading {wanted.url} (1 MB)" in caplog.messages
    assert f"into {folder}" in caplog.messages
    assert "1 of 1 MB downloaded" in caplog.messages
