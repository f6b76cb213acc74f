"""A file is taken only if it is the published one; a download is whole or absent; messages say what to do."""

import errno
import gzip
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from deconfound import torchvision_operators
from deconfound.data import downloads
from deconfound.data.downloads import FILES, Remote, obtain
from deconfound.errors import DataError, UserError

CONTENT = b"the published bytes" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
Server = Callable[[str, Path], None]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A data set `toy` of one file with two addresses."""
    file = Remote("toy.bin", ("http://first/toy.bin", "http://second/toy.bin"), MD5)
    monkeypatch.setitem(FILES, "toy", (file,))
    return file


def serve(monkeypatch: pytest.MonkeyPatch, *answers: bytes | Exception) -> list[str]:
    """Replace the downloader: each call gets the next answer. Returns the addresses asked, as they come."""
    asked: list[str] = []

    def transfer(address: str, path: Path) -> None:
        asked.append(address)
        answer = answers[len(asked) - 1]
        path.write_bytes(CONTENT[:7] if isinstance(answer, Exception) else answer)
        if isinstance(answer, Exception):
            raise answer

    monkeypatch.setattr(downloads, "transfer", transfer)
    return asked


def test_a_missing_file_is_downloaded_once(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, CONTENT)
    assert obtain("toy", tmp_path) == obtain("toy", tmp_path) == [tmp_path / "toy" / "toy.bin"]
    assert (tmp_path / "toy" / "toy.bin").read_bytes() == CONTENT
    assert asked == ["http://first/toy.bin"]


def test_the_second_address_is_asked_when_the_first_fails(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, URLError("gone"), CONTENT)
    obtain("toy", tmp_path)
    assert asked == list(remote.addresses)


@pytest.mark.parametrize(
    "failure",
    [
        URLError("Name or service not known"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        RuntimeError("x"),
    ],
)
def test_without_a_network_the_message_names_set_folder_and_files(
    failure: Exception, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, failure, failure)
    with pytest.raises(UserError) as caught:
        obtain("toy", tmp_path)
    assert not isinstance(caught.value, DataError)
    for words in (
        "toy: cannot download toy.bin",
        "network",
        str(failure),
        f"{tmp_path}/toy",
        MD5,
        *remote.addresses,
    ):
        assert words in str(caught.value)
    assert list((tmp_path / "toy").iterdir()) == []


def test_only_files_still_missing_are_asked_of_a_person(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Remote("more.bin", ("http://first/more.bin",), MD5)
    monkeypatch.setitem(FILES, "toy", (remote, second))
    serve(monkeypatch, CONTENT, URLError("gone"))
    with pytest.raises(UserError) as caught:
        obtain("toy", tmp_path)
    assert "more.bin  MD5" in str(caught.value) and "toy.bin  MD5" not in str(caught.value)
    asked = serve(monkeypatch, CONTENT)
    obtain("toy", tmp_path)
    assert asked == ["http://first/more.bin"]


@pytest.mark.parametrize(
    ("sent", "remark"), [(CONTENT[:-1], ""), (PAGE, "HTML page"), (b"", "empty"), (b"x" * 99, "")]
)
def test_a_server_that_sends_something_else_is_exposed_and_nothing_stays(
    sent: bytes, remark: str, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, sent, sent)
    with pytest.raises(DataError) as caught:
        obtain("toy", tmp_path)
    for words in (
        f"{tmp_path}/toy/toy.bin",
        f"expected MD5 {MD5}",
        f"found {hashlib.md5(sent).hexdigest()}",
        remark,
    ):
        assert words in str(caught.value)
    assert list((tmp_path / "toy").iterdir()) == []


@pytest.mark.parametrize(("content", "remark"), [(CONTENT[:-1], ""), (PAGE, "HTML page"), (b"", "empty")])
def test_a_wrong_file_in_the_cache_is_named_and_left_to_its_owner(
    content: bytes, remark: str, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch)
    path = tmp_path / "toy" / "toy.bin"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        obtain("toy", tmp_path)
    for words in (
        str(path),
        f"expected MD5 {MD5}",
        hashlib.md5(content).hexdigest(),
        remark,
        "Remove it and run again",
    ):
        assert words in str(caught.value)
    assert path.read_bytes() == content and asked == []


def test_the_checksum_of_the_content_counts_where_gzip_headers_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "toy", (Remote("toy.gz", ("http://first/toy.gz",), MD5, True),))
    (tmp_path / "toy").mkdir()
    path = tmp_path / "toy" / "toy.gz"
    for stamp, level in ((0, 9), (1_000_000, 1)):
        path.write_bytes(gzip.compress(CONTENT, level, mtime=stamp))
        assert obtain("toy", tmp_path) == [path]

    for damaged in (
        path.read_bytes()[:-9],
        CONTENT,
        path.read_bytes()[:30] + bytes(9) + path.read_bytes()[39:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=f"expected MD5 {MD5} of the unpacked content, found nothing readable"
        ):
            obtain("toy", tmp_path)


def test_a_full_disk_is_said_plainly_and_leaves_no_part(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError, match="no space left on the disk"):
        obtain("toy", tmp_path)
    assert list((tmp_path / "toy").iterdir()) == []


def test_a_cache_that_is_a_file_is_refused(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write here"):
        obtain("toy", tmp_path / "cache")


def test_parts_of_killed_runs_are_never_taken_and_old_ones_go(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, CONTENT)
    folder = tmp_path / "toy"
    folder.mkdir()
    old, young = folder / ".toy.bin.abc.part", folder / ".toy.bin.def.part"
    for part in (old, young):
        part.write_bytes(CONTENT[:5])
    os.utime(old, (time.time() - 700,) * 2)
    obtain("toy", tmp_path)
    assert not old.exists() and young.exists()
    assert (folder / "toy.bin").read_bytes() == CONTENT


class Handler(BaseHTTPRequestHandler):
    """/whole sends the content, /short breaks off in the middle, /page sends HTML, others are not found."""

    def do_GET(self) -> None:
        body = {"/whole": CONTENT, "/short": CONTENT[:99], "/page": PAGE}.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) if self.path == "/short" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_the_real_downloader_turns_to_the_next_address_until_a_file_is_whole(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    addresses = tuple(f"{server}/{name}" for name in ("short", "page", "nothing", "whole"))
    monkeypatch.setitem(FILES, "toy", (Remote("toy.bin", addresses, MD5),))
    before = socket.getdefaulttimeout()
    (path,) = obtain("toy", tmp_path)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["toy.bin"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert socket.getdefaulttimeout() == before
    assert capfd.readouterr().err == ""  # no progress bar in a log file


def test_the_real_downloader_reports_every_address(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = tuple(f"{server}/{name}" for name in ("short", "page", "nothing"))
    monkeypatch.setitem(FILES, "toy", (Remote("toy.bin", addresses, MD5),))
    with pytest.raises(DataError, match=r"(?s)/short: expected MD5.*/page: .*HTML page.*/nothing: .*404"):
        obtain("toy", tmp_path)
    assert list((tmp_path / "toy").iterdir()) == []


def test_addresses_and_checksums_are_those_that_torchvision_knows() -> None:
    torchvision_operators.ensure()
    from torchvision.datasets import MNIST, SVHN, FashionMNIST

    def names(dataset: str) -> list[tuple[str, str]]:
        return [(file.name, file.md5) for file in FILES[dataset]]

    assert names("fashion_mnist") == FashionMNIST.resources
    assert [name for name, _ in names("mnist")] == [name for name, _ in MNIST.resources]
    assert names("svhn") == [tuple(SVHN.split_list[split][1:]) for split in ("train", "test")]
    for dataset, known in (("mnist", MNIST), ("fashion_mnist", FashionMNIST)):
        for file in FILES[dataset]:
            assert set(file.addresses) >= {mirror + file.name for mirror in known.mirrors}
    assert [file.addresses[0] for file in FILES["svhn"]] == [SVHN.split_list[s][0] for s in ("train", "test")]
