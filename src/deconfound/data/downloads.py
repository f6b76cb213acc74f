"""Files of public data sets: where they come from, what they must be, and how to live without a network.

A file is taken if its MD5 is the published one, wherever it came from. A download gets its final name only
once it is whole and verified, so a killed or failed download is never met again.
"""

import contextlib
import gzip
import hashlib
import http.client
import logging
import os
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deconfound.errors import DataError, UserError
from deconfound.storage import atomic

STALLED = 30  # seconds without an answer before a server is given up
log = logging.getLogger(__name__)


class Remote(NamedTuple):
    """A published file. md5 is of the file or, if `unpacked`, of what its gzip holds (gzip headers vary)."""

    name: str
    addresses: tuple[str, ...]
    md5: str
    unpacked: bool = False


def _idx(
    mirrors: tuple[str, ...], checksums: tuple[str, str, str, str], *, unpacked: bool
) -> tuple[Remote, ...]:
    names = (f"{s}-{kind}-ubyte.gz" for s in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return tuple(
        Remote(name, tuple(mirror + name for mirror in mirrors), md5, unpacked)
        for name, md5 in zip(names, checksums, strict=True)
    )


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_STANFORD = "http://ufldl.stanford.edu/housenumbers/"
_ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"

FILES: dict[str, tuple[Remote, ...]] = {
    "mnist": _idx(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        unpacked=True,
    ),
    "fashion_mnist": _idx(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        unpacked=False,
    ),
    "cifar10": (
        Remote(
            "cifar-10-binary.tar.gz",
            (_TORONTO + "cifar-10-binary.tar.gz",),
            "c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
    "cifar100": (
        Remote(
            "cifar-100-binary.tar.gz",
            (_TORONTO + "cifar-100-binary.tar.gz",),
            "03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
    "svhn": (
        Remote("train_32x32.mat", (_STANFORD + "train_32x32.mat",), "e26dedcc434d2e4c54c9b2d4a06d8373"),
        Remote("test_32x32.mat", (_STANFORD + "test_32x32.mat",), "eb5a983be6a315427106f1b164d9cef3"),
    ),
    "gtsrb": tuple(
        Remote(name, (_ERDA + name,), md5)
        for name, md5 in (
            ("GTSRB-Training_fixed.zip", "513f3c79a4c5141765e10e952eaa2478"),
            ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
            ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
        )
    ),
}


def obtain(dataset: str, cache: Path) -> list[Path]:
    """Verified files of a data set in `cache`/`dataset`, in the order of FILES; missing ones are downloaded.

    Raises DataError for a file that is not what its checksum promises, UserError if a download is impossible.
    """
    folder = cache / dataset
    for remote in FILES[dataset]:
        path = folder / remote.name
        if not path.exists():
            _download(dataset, remote, folder)
        elif wrong := fault(path, remote):
            raise DataError(
                f"{path}: {wrong}. Remove it and run again to download it, or put the right file in its place"
            )
    return [folder / remote.name for remote in FILES[dataset]]


def fault(path: Path, remote: Remote) -> str:
    """What is wrong with a file: expected and found checksum, and what it looks like; empty if nothing is."""
    try:
        with gzip.open(path) if remote.unpacked else path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        found = f"nothing readable ({error})"
    if found == remote.md5:
        return ""
    of = " of the unpacked content" if remote.unpacked else ""
    return f"expected MD5 {remote.md5}{of}, found {found}{looks_like(path)}"


def looks_like(path: Path) -> str:
    """The remark of `foreign` on a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return foreign(file.read(512))
    except OSError:
        return ""


def foreign(start: bytes) -> str:
    """A remark on content that is no data: `; it is empty`, or `; it is an HTML page`; empty otherwise."""
    if not start:
        return "; it is empty"
    page = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<head"))
    return "; it is an HTML page, perhaps of a login or an error, not data" if page else ""


def _download(dataset: str, remote: Remote, folder: Path) -> None:
    """Download one file from the first address that has it; whole and verified, or not there at all."""
    path, reasons, arrived = folder / remote.name, [], False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({error.strerror}); choose another cache") from error
    for address in remote.addresses:
        log.info("%s: downloading %s", dataset, address)
        try:
            with atomic(path) as temporary:
                temporary.unlink()
                transfer(address, temporary)
                if wrong := fault(temporary, remote):
                    arrived = True
                    raise DataError(wrong)
            return
        except PermissionError as error:
            raise UserError(
                f"{folder}: cannot write here ({error.strerror}); choose another cache"
            ) from error
        except (DataError, OSError, http.client.HTTPException, RuntimeError) as error:
            reasons.append(f"  {address}: {error}")
    if arrived:
        what = f"{path}: what the server sent is not the published file; nothing of it was kept"
        raise DataError("\n".join([what, *reasons, *_by_hand(dataset, folder)]))
    what = f"{dataset}: cannot download {remote.name}; is there a network? Run again when there is one:"
    raise UserError("\n".join([f"{what} finished files are kept", *reasons, *_by_hand(dataset, folder)]))


def _by_hand(dataset: str, folder: Path) -> list[str]:
    """Which files to put where, for a machine without a network."""
    lines = [f"Files obtained in another way are taken from {folder}:"]
    for remote in FILES[dataset]:
        if not (folder / remote.name).exists():
            of = " (unpacked)" if remote.unpacked else ""
            lines.append(f"  {remote.name}  MD5{of} {remote.md5}  {remote.addresses[0]}")
    return lines


def _remove_leftovers(path: Path) -> None:
    """Remove parts that killed runs left behind; a part that still grows is younger than ten minutes."""
    for part in path.parent.glob(f".{path.name[:40]}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > 600:
                part.unlink()


def transfer(address: str, path: Path) -> None:
    """Download with torchvision's downloader; on a terminal it shows a bar, in a log file nothing."""
    from deconfound import torchvision_operators

    torchvision_operators.ensure()
    from torchvision.datasets.utils import download_url

    with _patience(STALLED), contextlib.ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        download_url(address, str(path.parent), path.name)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
