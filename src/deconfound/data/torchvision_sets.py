"""The public data sets of torchvision, read from their published files with numpy; nothing here is a pickle.

MNIST (LeCun et al. 1998), Fashion-MNIST (Xiao et al. 2017), CIFAR-10 and CIFAR-100 (Krizhevsky 2009, binary
version), SVHN (Netzer et al. 2011, cropped digits), GTSRB (Stallkamp et al. 2012).
"""

import csv
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deconfound.data.downloads import obtain
from deconfound.errors import DataError
from deconfound.fields import Count, hyperparameters
from deconfound.types import Images, Source, Split

Pixels = NDArray[np.uint8]
Bytes = NDArray[np.uint8]
Content = tuple[Pixels, Bytes, Pixels, Bytes, tuple[str, ...]]  # train x, y, test x, y, class names

SHAPES = {  # channels, side, classes
    "mnist": (1, 28, 10),
    "fashion_mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "svhn": (3, 32, 10),
    "gtsrb": (3, 32, 43),
}
DIGITS = tuple("0123456789")
FASHION = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIGNS = (
    *(f"speed limit {v}" for v in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing for trucks"),
    *("priority at next crossing", "priority road", "yield", "stop", "no vehicles", "no trucks", "no entry"),
    *("danger", "curve left", "curve right", "double curve", "bumpy road", "slippery road", "road narrows"),
    *("road work", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow", "wild animals"),
    *("end of all limits", "turn right ahead", "turn left ahead", "ahead only", "straight or right"),
    *(
        "straight or left",
        "keep right",
        "keep left",
        "roundabout",
        "end of no passing",
        "end of no passing for trucks",
    ),
)
BROKEN = (KeyError, ValueError, EOFError, OSError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


Reader = Callable[[list[Path], int], Content]  # the files in the order of downloads.FILES; side for GTSRB


@hyperparameters
class TorchvisionSet:
    """name: which data set; size: side in pixels to resize to (bilinear), by default as published, GTSRB 32.

    GTSRB's training pictures come in tracks of 30 shots of one sign, so a val split cut from it is easier
    than the test split.
    """

    name: Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "gtsrb"]
    size: Count | None = None

    @property
    def expects(self) -> tuple[tuple[int, int, int] | None, int | None]:
        """Shape (C, H, W) and number of classes."""
        channels, side, classes = SHAPES[self.name]
        return (channels, self.size or side, self.size or side), classes

    def fetch(self, cache: Path) -> Source:
        """x (N, C, H, W) uint8, C = 1 for the MNIST family, else 3; files are kept in `cache`/`name`.

        Raises DataError for a wrong file and UserError if one is missing and cannot be downloaded.
        """
        paths = obtain(self.name, cache)
        try:
            train_x, train_y, test_x, test_y, classes = READERS[self.name](
                paths, self.size or SHAPES[self.name][1]
            )
            train = self._split(train_x, train_y, len(classes))
            test = self._split(test_x, test_y, len(classes))
        except BROKEN as error:
            what = f"{paths[0].parent}: the files of {self.name} are not laid out as published"
            raise DataError(f"{what}: {error}") from error
        return Source(train, test, classes)

    def _split(self, x: Pixels, y: Bytes, classes: int) -> Split:
        if not len(x) == len(y) > 0 or y.max() >= classes:
            raise ValueError(
                f"expected labels below {classes}, one per image; got {len(x)} images and {len(y)} labels "
                f"up to {max(y, default=0)}"
            )
        pixels = x if self.size is None else resized(x, self.size)
        return Split(Images(torch.from_numpy(pixels.copy()), torch.from_numpy(y.astype(np.int64))))


def resized(x: Pixels, side: int) -> Pixels:
    """x (N, C, H, W) with both sides `side`, bilinear (with antialiasing when it shrinks)."""
    if x.shape[2:] == (side, side):
        return x
    planes = (Image.fromarray(plane) for plane in x.reshape(-1, *x.shape[2:]))
    done = [np.asarray(plane.resize((side, side), Image.Resampling.BILINEAR)) for plane in planes]
    return np.stack(done).reshape(len(x), -1, side, side)


def _idx(path: Path, rank: int) -> Bytes:
    """An array of bytes in IDX form: magic 0 0 8 rank, big-endian sizes, then the values."""
    content = gzip.decompress(path.read_bytes())
    header = 4 + 4 * rank
    if content[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(f"{path.name} does not start like IDX bytes of rank {rank}")
    shape = np.frombuffer(content[4:header], ">u4").astype(int)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _mnist(classes: tuple[str, ...]) -> Reader:
    def read(paths: list[Path], side: int) -> Content:
        x, y, test_x, test_y = (_idx(path, rank) for path, rank in zip(paths, (3, 1, 3, 1), strict=True))
        return x[:, None], y, test_x[:, None], test_y, classes

    return read


def _cifar(train: list[str], test: str, names: str, labels: int) -> Reader:
    """Records of `labels` label bytes, of which the last counts, and 3 x 32 x 32 pixel bytes."""

    def read(paths: list[Path], side: int) -> Content:
        content = {}
        with tarfile.open(paths[0], "r:gz") as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    content[member.name.rpartition("/")[2]] = file.read()

        def records(*parts: str) -> tuple[Pixels, Bytes]:
            table = np.frombuffer(b"".join(content[part] for part in parts), np.uint8)
            table = table.reshape(-1, labels + 3 * 32 * 32)
            return table[:, labels:].reshape(-1, 3, 32, 32), table[:, labels - 1]

        return *records(*train), *records(test), tuple(content[names].decode().split())

    return read


def _svhn(paths: list[Path], side: int) -> Content:
    """Matlab arrays X (32, 32, 3, N) and y (N, 1), where the digit 0 has the label 10."""
    from scipy.io import loadmat

    train, test = (loadmat(path, variable_names=("X", "y")) for path in paths)

    def parts(found: Mapping[str, Any]) -> tuple[Pixels, Bytes]:
        return found["X"].transpose(3, 2, 0, 1), found["y"].reshape(-1) % 10

    return *parts(train), *parts(test), DIGITS


def _gtsrb(paths: list[Path], side: int) -> Content:
    """Zip files: training pictures in folders of their label, test pictures, and a table of test labels."""
    with ExitStack() as stack:
        train, test, truth = (stack.enter_context(zipfile.ZipFile(path)) for path in paths)
        names = sorted(name for name in train.namelist() if name.endswith(".ppm"))
        labels = [int(name.split("/")[-2]) for name in names]
        text = truth.read(next(name for name in truth.namelist() if name.endswith(".csv"))).decode()
        rows = csv.DictReader(io.StringIO(text), delimiter=";")
        answers = dict(sorted((row["Filename"], int(row["ClassId"])) for row in rows))
        folder = {name.rpartition("/")[2]: name for name in test.namelist()}
        x = _pictures(train, names, side)
        test_x = _pictures(test, [folder[name] for name in answers], side)
    return x, np.array(labels, np.uint8), test_x, np.array([*answers.values()], np.uint8), SIGNS


def _pictures(archive: zipfile.ZipFile, names: list[str], side: int) -> Pixels:
    """Pictures of any size as (N, 3, side, side)."""
    x = np.empty((len(names), 3, side, side), np.uint8)
    for i, name in enumerate(names):
        with Image.open(io.BytesIO(archive.read(name))) as picture:
            resized = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        x[i] = np.asarray(resized).transpose(2, 0, 1)
    return x


READERS: dict[str, Reader] = {
    "mnist": _mnist(DIGITS),
    "fashion_mnist": _mnist(FASHION),
    "cifar10": _cifar([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", "batches.meta.txt", 1),
    "cifar100": _cifar(["train.bin"], "test.bin", "fine_label_names.txt", 2),
    "svhn": _svhn,
    "gtsrb": _gtsrb,
}
