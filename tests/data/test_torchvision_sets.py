"""Every published layout is read exactly; the files are made by hand, their checksums put into the table."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.io import savemat

from deconfound.data.downloads import FILES
from deconfound.data.torchvision_sets import READERS, SHAPES, SIGNS, TorchvisionSet, resized
from deconfound.errors import DataError

Bytes = NDArray[np.uint8]
REAL = os.environ.get("DECONFOUND_DATA")


def noise(seed: int, *shape: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def put(monkeypatch: pytest.MonkeyPatch, cache: Path, dataset: str, contents: list[bytes]) -> None:
    """Lay the files of a data set into the cache and make their checksums the published ones."""
    (cache / dataset).mkdir()
    table = []
    for remote, content in zip(FILES[dataset], contents, strict=True):
        (cache / dataset / remote.name).write_bytes(content)
        inner = gzip.decompress(content) if remote.unpacked else content
        table.append(remote._replace(md5=hashlib.md5(inner).hexdigest()))
    monkeypatch.setitem(FILES, dataset, tuple(table))


def idx(array: Bytes) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes())


def tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, test_x = noise(0, 5, 28, 28), noise(1, 2, 28, 28)
    y, test_y = np.array([9, 0, 3, 3, 1], np.uint8), np.array([7, 2], np.uint8)
    put(monkeypatch, tmp_path, name, [idx(array) for array in (x, y, test_x, test_y)])

    source = TorchvisionSet(name=name).fetch(tmp_path)  # type: ignore[arg-type]

    assert torch.equal(source.train.images.x, torch.from_numpy(x)[:, None])
    assert torch.equal(source.test.images.x, torch.from_numpy(test_x)[:, None])
    assert source.train.images.y.tolist() == [9, 0, 3, 3, 1] and source.test.images.y.tolist() == [7, 2]
    assert source.train.images.x.dtype == torch.uint8 and source.train.images.y.dtype == torch.int64
    assert len(source.classes) == 10
    source.train.images.x.zero_()  # writable: no view of a file's bytes


def test_cifar10_binary_records_are_label_then_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = noise(0, 11, 3, 32, 32), np.arange(11, dtype=np.uint8) % 10
    records = [bytes([label]) + image.tobytes() for label, image in zip(y, x, strict=True)]
    files = {f"data_batch_{k + 1}.bin": b"".join(records[2 * k : 2 * k + 2]) for k in range(5)}
    names = [f"name_{k}" for k in range(10)]
    files |= {"test_batch.bin": records[10], "batches.meta.txt": ("\n".join(names) + "\n\n").encode()}
    put(monkeypatch, tmp_path, "cifar10", [tarred(files)])

    source = TorchvisionSet(name="cifar10").fetch(tmp_path)

    assert torch.equal(source.train.images.x, torch.from_numpy(x[:10]))
    assert torch.equal(source.test.images.x, torch.from_numpy(x[10:]))
    assert source.train.images.y.tolist() == [*range(10)] and source.test.images.y.tolist() == [0]
    assert source.classes == tuple(names)
    assert [path.name for path in (tmp_path / "cifar10").iterdir()] == ["cifar-10-binary.tar.gz"]


def test_cifar100_takes_the_fine_label_which_is_the_second_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise(0, 3, 3, 32, 32)
    records = [bytes([19, fine]) + image.tobytes() for fine, image in zip((99, 0, 42), x, strict=True)]
    files = {"train.bin": records[0] + records[1], "test.bin": records[2]}
    files |= {"fine_label_names.txt": "\n".join(f"fine_{k}" for k in range(100)).encode()}
    files |= {"coarse_label_names.txt": b"coarse"}
    put(monkeypatch, tmp_path, "cifar100", [tarred(files)])

    source = TorchvisionSet(name="cifar100").fetch(tmp_path)

    assert source.train.images.y.tolist() == [99, 0] and source.test.images.y.tolist() == [42]
    assert torch.equal(source.train.images.x, torch.from_numpy(x[:2]))
    assert source.classes[42] == "fine_42" and len(source.classes) == 100


def test_svhn_calls_the_digit_zero_0_and_turns_its_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = noise(0, 4, 3, 32, 32)
    contents = []
    for part, labels in ((x[:3], [10, 1, 9]), (x[3:], [10])):
        buffer = io.BytesIO()
        savemat(buffer, {"X": part.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)[:, None]})
        contents.append(buffer.getvalue())
    put(monkeypatch, tmp_path, "svhn", contents)

    source = TorchvisionSet(name="svhn").fetch(tmp_path)

    assert torch.equal(source.train.images.x, torch.from_numpy(x[:3]))
    assert source.train.images.y.tolist() == [0, 1, 9] and source.test.images.y.tolist() == [0]


def ppm(red: int, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (red, 0, 255)).save(buffer, "PPM")
    return buffer.getvalue()


@pytest.mark.parametrize(("size", "side"), [(None, 32), (20, 20)])
def test_gtsrb_takes_labels_from_folders_and_from_the_table(
    size: int | None, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {
        "GTSRB/Training/00042/00000_00000.ppm": ppm(42, 50, 40),
        "GTSRB/Training/00042/GT-00042.csv": b"x",
    }
    train |= {"GTSRB/Training/00007/00000_00000.ppm": ppm(7, 15, 16)}
    test = {f"GTSRB/Final_Test/Images/0000{k}.ppm": ppm(k, 30, 30) for k in (1, 0)}
    table = "Filename;Width;Height;ClassId\r\n00001.ppm;30;30;3\r\n00000.ppm;30;30;16\r\n"
    put(
        monkeypatch,
        tmp_path,
        "gtsrb",
        [zipped(train), zipped(test), zipped({"GT-final_test.csv": table.encode()})],
    )

    source = TorchvisionSet(name="gtsrb", size=size).fetch(tmp_path)

    assert source.train.images.x.shape == (2, 3, side, side)
    assert source.train.images.x[:, :, 5, 5].tolist() == [[7, 0, 255], [42, 0, 255]]
    assert source.train.images.y.tolist() == [7, 42]
    assert source.test.images.x[:, 0, 0, 0].tolist() == [0, 1] and source.test.images.y.tolist() == [16, 3]
    assert source.classes == SIGNS and len(set(SIGNS)) == 43 and SIGNS[14] == "stop"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([idx(noise(0, 3, 28, 28)), idx(noise(0, 2) % 10)] * 2, "3 images and 2 labels"),
        ([idx(noise(0, 1, 28, 28)), idx(np.array([10], np.uint8))] * 2, "labels below 10"),
        ([idx(noise(0, 1)), idx(noise(0, 1))] * 2, "rank 3"),
        (
            [
                idx(noise(0, 2, 28, 28))[:0] + gzip.compress(b"\0\0\x08\x03" + bytes([0, 0, 0, 9] * 3)),
                idx(noise(0, 1)),
            ]
            * 2,
            "reshape",
        ),
        ([idx(noise(0, 0, 28, 28)), idx(noise(0, 0))] * 2, "0 images"),
    ],
)
def test_files_with_another_layout_are_a_data_error(
    contents: list[bytes], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, tmp_path, "mnist", contents)
    with pytest.raises(DataError, match=rf"mnist are not laid out as published.*{words}"):
        TorchvisionSet(name="mnist").fetch(tmp_path)


@pytest.mark.parametrize("dataset", ["cifar10", "gtsrb"])
def test_archives_that_lack_a_file_are_a_data_error(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tarred({}) if dataset == "cifar10" else zipped({"a.csv": b"Filename;ClassId\nx.ppm;1\n"})
    put(monkeypatch, tmp_path, dataset, [empty] * len(FILES[dataset]))
    with pytest.raises(DataError, match="not laid out as published"):
        TorchvisionSet(name=dataset).fetch(tmp_path)  # type: ignore[arg-type]


def test_resizing_keeps_constants_and_averages_when_it_halves() -> None:
    flat = np.full((2, 3, 8, 8), 77, np.uint8)
    assert (resized(flat, 5) == 77).all() and resized(flat, 5).shape == (2, 3, 5, 5)
    assert resized(flat, 8) is flat
    stripe = np.zeros((1, 1, 4, 4), np.uint8)
    stripe[..., 1] = 210  # weights of a triangle two pixels wide: 3/7 of the left half, 1/7 of the right half
    assert resized(stripe, 2)[0, 0].tolist() == [[90, 30], [90, 30]]


def test_a_set_says_its_shape_and_classes_before_the_fetch() -> None:
    assert TorchvisionSet(name="mnist").expects == ((1, 28, 28), 10)
    assert TorchvisionSet(name="gtsrb", size=48).expects == ((3, 48, 48), 43)
    assert set(FILES) == set(SHAPES) == set(READERS)


@pytest.mark.parametrize(
    "block", [{"name": "imagenet"}, {}, {"name": "mnist", "size": 0}, {"name": "mnist", "x": 1}]
)
def test_unknown_names_sizes_and_keys_are_refused(block: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TorchvisionSet).validate_python(block)


@pytest.mark.skipif(REAL is None, reason="set DECONFOUND_DATA to a folder with mnist/ and cifar10/")
def test_the_real_mnist_is_what_it_is_known_to_be() -> None:
    source = TorchvisionSet(name="mnist").fetch(Path(str(REAL)))
    assert source.train.images.x.shape == (60000, 1, 28, 28) and source.test.images.x.shape == (
        10000,
        1,
        28,
        28,
    )
    assert source.train.images.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert source.test.images.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(source.train.images.y).tolist() == counts
    assert round(float(source.train.images.x.double().mean() / 255), 4) == 0.1307
