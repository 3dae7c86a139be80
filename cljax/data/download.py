"""Downloads files, verifies their SHA-256 sums, and resumes interrupted downloads."""

import contextlib
import dataclasses
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pooch
import requests
import rich
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cljax.errors import UserError, note
from cljax.files import lock, open_lock, user_cache_folder, writing

_TIMEOUT = (15, 60)  # seconds to connect, and between two pieces of the answer
_CHUNK = 2**14  # bytes; a connection that breaks loses the piece it is in
_PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal
_STALE_SECONDS = 7 * 86400  # then a part that another host has left is removed
_log = logging.getLogger("cljax")


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """Describes a file on the internet.

    Attributes:
      url: its address.
      size: number of bytes.
      sha256: SHA-256 sum of the content, in hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file, the last part of the address."""
        return self.url.rpartition("/")[2]

    def at(self, mirror: str) -> "RemoteFile":
        """Returns the same file at a mirror: an address of the file or of its directory."""
        is_file = mirror.endswith((".tar.gz", ".zip"))
        return dataclasses.replace(
            self, url=mirror if is_file else f"{mirror.rstrip('/')}/{self.name}"
        )


def folder_of_downloads(directory: str) -> Path:
    """Returns the folder that archives are downloaded to.

    Args:
      directory: value of config.data.dir; empty: `downloads` in the user's cache folder.

    Raises:
      UserError: the directory is empty and there is no cache folder.
    """
    try:
        return Path(directory) if directory else user_cache_folder() / "downloads"
    except UserError as error:
        raise UserError(f"config.data.dir is empty, and {error}") from error


def fetch_dataset(remote: RemoteFile, mirror: str, folder: Path) -> Path:
    """Fetches the archive of a dataset, from a mirror if one is named; arguments as for `fetch`.

    Raises:
      UserError: as `fetch`; the line also names the settings that help.
    """
    try:
        return fetch(remote.at(mirror) if mirror else remote, folder)
    except UserError as error:
        raise UserError(
            f"{error}; put {remote.name} into {folder} by hand, or set "
            "--config.data.dir to a directory that has it, or --config.data.url to a mirror"
        ) from error


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Returns the path of a file in `folder`, and downloads it if it is not there.

    Bytes go to a hidden file in the same folder, which the next call resumes. It gets its final
    name only when its sum is right. Processes of one host wait for each other; each host has its
    own hidden file. Proxies come from the environment (HTTPS_PROXY and others).

    Args:
      remote: the file.
      folder: made if absent.

    Raises:
      UserError: the server cannot be reached or sends something else, or the disk cannot be
        written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{remote.name}.{platform.node()}.part"
    with _exclusive(part, remote.name), _one_line(remote, folder):
        resumed = part.exists()
        try:
            return _retrieve(remote, folder, part)
        except ValueError:  # what pooch raises if the sum is wrong
            if not resumed:
                raise
            note("%s is damaged; downloading it again from the start", remote.name)
            return _retrieve(remote, folder, part)


@contextlib.contextmanager
def _one_line(remote: RemoteFile, folder: Path) -> Iterator[None]:
    """Turns what the block raises into a UserError."""
    what = f"cannot download {remote.url}"
    try:
        yield
    except requests.RequestException as error:
        raise UserError(f"{what}: {_reason(error)}") from error
    except OSError as error:
        size = f"{remote.size / 1e6:.0f} MB"
        reason = error.strerror or error
        raise UserError(f"{what} ({size}): cannot write {folder}: {reason}") from error
    except ValueError as error:
        raise UserError(
            f"{what}: the server sent a file with another SHA-256 sum; it was deleted"
        ) from error


def _retrieve(remote: RemoteFile, folder: Path, part: Path) -> Path:
    """The file's path; raises ValueError, and removes what was downloaded, if its sum is wrong."""
    pooch.get_logger().setLevel(logging.ERROR)
    path = pooch.retrieve(
        remote.url,
        known_hash=f"sha256:{remote.sha256}",
        fname=remote.name,
        path=folder,
        # pooch's type has other names for the arguments that it gives by position.
        downloader=lambda url, file, _: _download(remote, part, file),  # pyright: ignore[reportArgumentType]
    )
    return Path(path)


@contextlib.contextmanager
def _exclusive(part: Path, name: str) -> Iterator[None]:
    """Lets one process of this host write the part at a time; others wait."""
    with open_lock(part.with_suffix(".lock")) as file:
        if not lock(file):
            note("waiting for another process that downloads %s", name)
            lock(file, wait=True)
        yield


def _download(remote: RemoteFile, part: Path, target: str) -> None:
    """Completes the part and moves it to `target`, as pooch's downloaders do."""
    if _size(part) > remote.size:
        part.unlink()
    known = f", of which {_size(part) / 1e6:.0f} MB are on the disk" if _size(part) else ""
    note("downloading %s (%.0f MB%s)", remote.url, remote.size / 1e6, known)
    note("into %s", part.parent)
    with _progress(remote, _size(part)) as show:
        while (done := _size(part)) < remote.size:
            try:
                _append(remote, part, done, show)
            except requests.RequestException:
                if _size(part) <= done:  # a connection that brought nothing is not tried again
                    raise
                _log.info("%s: connection lost after %d bytes", remote.url, _size(part))
    for stale in part.parent.glob(f".{remote.name}.*.part"):
        if stale != part and time.time() - stale.stat().st_mtime > _STALE_SECONDS:
            stale.unlink(missing_ok=True)
    os.replace(part, target)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(remote: RemoteFile, part: Path, start: int, show: Callable[[int], None]) -> None:
    """Appends what the server sends from byte `start` on, or all of it if it sends no parts."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        _check_answer(remote, response, start if resumed else 0)
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                show(file.tell())
    if _size(part) < remote.size:
        raise requests.ConnectionError("the connection ended early")


def _check_answer(remote: RemoteFile, response: requests.Response, start: int) -> None:
    """Raises RequestException if the answer is not the file, before anything is written."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise requests.RequestException(
            "the server answered with a web page; if this network has a login page, log in first"
        )
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != remote.size - start:
        raise requests.RequestException(
            f"the server offers {int(length) + start:,} bytes; expected {remote.size:,}"
        )


@contextlib.contextmanager
def _progress(remote: RemoteFile, done: int):
    """Shows a bar in a terminal, a line now and then elsewhere; gives a function of bytes."""
    if not rich.get_console().is_terminal:
        yield _PlainProgress(remote)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(remote.name, total=remote.size, completed=done)
        yield lambda done: progress.update(task, completed=done)


class _PlainProgress:
    """Writes a line of progress at most every `_PLAIN_SECONDS`."""

    def __init__(self, remote: RemoteFile):
        self._remote = remote
        self._shown = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._shown >= _PLAIN_SECONDS:
            self._shown = time.monotonic()
            size = self._remote.size
            note("%.0f of %.0f MB downloaded", done / 1e6, size / 1e6)


def _reason(error: requests.RequestException) -> str:
    """The innermost reason that a person can use, in one line."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    reason = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())
