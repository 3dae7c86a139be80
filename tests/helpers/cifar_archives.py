"""CIFAR archives in the authors' layout, and a server on 127.0.0.1 that gives them away."""

import contextlib
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from cljax.data.cifar_files import Cifar, Form
from cljax.data.download import RemoteFile


def small(cifar: Cifar, per_file: int = 20) -> Cifar:
    """The same dataset with so many images in each of its files."""
    count = per_file * len(cifar.binary.train)
    return replace(cifar, num_train=count, num_test=per_file)


def random_arrays(cifar: Cifar, seed: int = 0) -> dict[str, np.ndarray]:
    """Images, labels, coarse labels and names, as a dataset of its size has them."""
    rng = np.random.default_rng(seed)
    arrays = {"names": np.array([f"class_{i}" for i in range(cifar.num_classes)])}
    for split, count in (("train", cifar.num_train), ("test", cifar.num_test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, cifar.num_classes, count).astype(np.int32)
        arrays[f"{split}_coarse"] = rng.integers(0, 20, count).astype(np.int32)
    return arrays


def binary_files(cifar: Cifar, arrays) -> dict[str, bytes]:
    """The content of the binary form's files by name."""
    form = cifar.binary
    records = {}
    for split in ("train", "test"):
        labels = arrays[f"{split}_labels"][:, None].astype(np.uint8)
        if form.label:
            labels = np.hstack([arrays[f"{split}_coarse"][:, None].astype(np.uint8), labels])
        planes = arrays[f"{split}_images"].transpose(0, 3, 1, 2).reshape(len(labels), -1)
        records[split] = np.hstack([labels, planes])
    parts = np.split(records["train"], len(form.train))
    files = {name: part.tobytes() for name, part in zip(form.train, parts, strict=True)}
    files[form.test] = records["test"].tobytes()
    files[form.names] = ("\n".join(arrays["names"]) + "\n").encode()
    return files


class _Python2Array:
    """Pickles as NumPy's arrays do under Python 2, in which the authors wrote their files."""

    def __init__(self, array):
        self.array = array


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        """BINSTRING, which protocol 3 gave up."""
        self.write(b"T" + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes

    def save_array(self, value):
        """numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), "b"), and its state."""
        self.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
        self.save((0,))
        self.save(b"b")
        self.write(pickle.TUPLE3 + pickle.REDUCE + pickle.MARK)
        self.save(1)
        self.save(value.array.shape)
        self.write(b"cnumpy\ndtype\n")
        self.save((b"u1", 0, 1))
        self.write(pickle.REDUCE)
        self.save((3, b"|", None, None, None, -1, -1, 0))
        self.write(pickle.BUILD)
        self.save(False)
        self.save(value.array.tobytes())
        self.write(pickle.TUPLE + pickle.BUILD)

    dispatch[_Python2Array] = save_array


def python2_pickle(value) -> bytes:
    """A pickle of dicts, lists, numbers, bytes and arrays of bytes as Python 2 wrote it."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def pickled_files(cifar: Cifar, arrays) -> dict[str, bytes]:
    """The content of the pickled form's files by name."""
    form = cifar.pickled

    def batch(images, labels):
        planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        return python2_pickle({b"data": _Python2Array(planes), form.label: labels.tolist()})

    parts = (np.split(arrays[f"train_{kind}"], len(form.train)) for kind in ("images", "labels"))
    files = {name: batch(*part) for name, *part in zip(form.train, *parts, strict=True)}
    files[form.test] = batch(arrays["test_images"], arrays["test_labels"])
    key = form.label.replace(b"labels", b"label_names")
    files[form.names] = python2_pickle({key: [name.encode() for name in arrays["names"]]})
    return files


def write_folder(directory: Path, form: Form, files: dict[str, bytes]) -> Path:
    """The unpacked form."""
    folder = directory / form.folders[0]
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(directory: Path, form: Form, files: dict[str, bytes]) -> Path:
    """The packed form."""
    path = directory / form.archive
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{form.folders[0]}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def remote(path: Path, url: str) -> RemoteFile:
    """The description of a file that a server offers."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(f"{url}/{path.name}", len(content), digest)


class Server:
    """Serves the files of a folder, with ranges; `requests` has a (path, range) of each request.

    Attributes:
      cut_after: bytes after which the next answers break off, one entry each.
      ranges: whether parts are served.
      page: HTML that is served in the place of every file.
      status: answered to every request, unless 200.
      wait: an event that answers wait for after their first bytes.
    """

    def __init__(self, folder: Path):
        self.requests, self.cut_after, self.ranges = [], [], True
        self.page, self.status, self.wait = None, 200, None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.requests.append((self.path, wanted))
                if server.status != 200:
                    self.send_error(server.status)
                    return
                content = server.page or (folder / self.path.lstrip("/")).read_bytes()
                start = int(wanted[6:-1]) if wanted and server.ranges else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("Content-Type", "text/html" if server.page else "application/gzip")
                self.end_headers()
                content = content[start:]
                if server.cut_after:
                    content = content[: server.cut_after.pop(0)]
                half = len(content) // 2
                # The program hangs up on a page in place of a file, and when it is killed.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(content[:half])
                    if server.wait:
                        server.wait.wait(60)
                    self.wfile.write(content[half:])

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
