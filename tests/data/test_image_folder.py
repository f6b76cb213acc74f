"""A person's images are read exactly and in a fixed order, from folders and archives; bad ones are listed."""

import errno
import io
import os
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from deconfound.data.image_folder import ImageFolder
from deconfound.errors import DataError
from deconfound.types import Source

Bytes = NDArray[np.uint8]
Files = Mapping[str, bytes]
REAL = os.environ.get("DECONFOUND_DATA")


def pixels(seed: int, height: int = 4, width: int = 5) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(array: Bytes, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def png(seed: int, height: int = 4, width: int = 5) -> bytes:
    return encoded(pixels(seed, height, width))


GOOD = {
    "train/dog/b.png": png(3),
    "train/cat/b.png": png(1),
    "train/cat/a.PNG": png(0),
    "train/dog/a.png": png(2),
    "test/dog/z.png": png(5),
    "test/cat/z.png": png(4),
}


def folder(path: Path, files: Files) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def archive(path: Path, files: Files) -> str:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("train/", "")
        for name, content in files.items():
            opened.writestr(name, content)
    return str(path)


def fetch(path: str | list[str], **options: object) -> Source:
    return ImageFolder(path=path, **options).fetch(Path("never-made"))  # type: ignore[arg-type]


def refusal(path: str | list[str], **options: object) -> str:
    with pytest.raises(DataError) as caught:
        fetch(path, **options)
    return str(caught.value)


def seeds(*numbers: int) -> torch.Tensor:
    """The images that `png` made of these seeds, (N, 3, 4, 5)."""
    return torch.from_numpy(np.stack([pixels(number).transpose(2, 0, 1) for number in numbers]))


def check_good(source: Source) -> None:
    assert source.classes == ("cat", "dog")
    assert torch.equal(source.train.images.x, seeds(0, 1, 2, 3))
    assert source.train.images.y.tolist() == [0, 0, 1, 1]
    assert torch.equal(source.test.images.x, seeds(4, 5)) and source.test.images.y.tolist() == [0, 1]
    assert source.train.images.x.dtype == torch.uint8 and source.train.images.y.dtype == torch.int64


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    check_good(fetch(folder(tmp_path, GOOD)))
    assert not Path("never-made").exists()


def test_an_archive_gives_the_same_and_is_not_unpacked(tmp_path: Path) -> None:
    check_good(fetch(archive(tmp_path / "all.zip", GOOD)))
    assert [path.name for path in tmp_path.iterdir()] == ["all.zip"]


def test_shards_merge_to_the_same_in_any_order(tmp_path: Path) -> None:
    names = sorted(GOOD)
    parts = [archive(tmp_path / f"{k}.zip", {name: GOOD[name] for name in names[k::2]}) for k in (0, 1)]
    check_good(fetch(parts))
    check_good(fetch(parts[::-1]))


def test_a_folder_and_an_archive_may_be_mixed(tmp_path: Path) -> None:
    train = archive(tmp_path / "train.zip", {k: v for k, v in GOOD.items() if k.startswith("train")})
    test = folder(tmp_path / "rest", {k: v for k, v in GOOD.items() if k.startswith("test")})
    check_good(fetch([train, test]))


def test_an_outer_folder_hidden_files_and_notes_do_not_count(tmp_path: Path) -> None:
    files = {f"my data/{name}": content for name, content in GOOD.items()}
    files |= {
        "my data/.DS_Store": b"",
        "__MACOSX/my data/train/cat/._a.png": b"",
        "my data/train/cat/.x.png": b"",
    }
    files |= {"README.txt": b"", "my data/notes.md": b"", "my data/train/cat/Thumbs.db": b""}
    check_good(fetch(archive(tmp_path / "all.zip", files)))
    check_good(fetch(folder(tmp_path / "all", files)))


def test_val_is_added_to_train_with_a_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {name.replace("train/dog", "val/dog"): content for name, content in GOOD.items()}
    files |= {"train/dog/c.png": png(6)}
    source = fetch(folder(tmp_path, files))
    assert torch.equal(source.train.images.x, seeds(0, 1, 2, 3, 6))
    assert "2 images of `val` go to `train`" in caplog.text


@pytest.mark.parametrize(
    ("form", "options"), [("BMP", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})]
)
def test_other_formats_are_read(form: str, options: dict[str, object], tmp_path: Path) -> None:
    smooth = np.full((4, 5, 3), (200, 100, 50), np.uint8)
    suffix = {"JPEG": "jpg"}.get(form, form.lower())
    files = {f"{s}/{c}/1.{suffix}": encoded(smooth, form, **options) for s in ("train", "test") for c in "ab"}
    x = fetch(folder(tmp_path, files)).train.images.x.int()
    assert (x - torch.tensor([200, 100, 50])[:, None, None]).abs().max() <= (2 if form == "JPEG" else 0)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    flat = np.zeros((8, 16, 3), np.uint8)
    flat[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    files = {
        f"{s}/{c}/1.jpg": encoded(flat, "JPEG", exif=exif, quality=95)
        for s in ("train", "test")
        for c in "ab"
    }
    x = fetch(folder(tmp_path, files)).train.images.x
    assert x.shape == (2, 3, 16, 8)
    assert x[:, :, :7].min() > 200 and x[:, :, 9:].max() < 55


def test_grey_and_colour_are_converted_to_the_channels_asked(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, "PNG", transparency=bytes(range(256)))
    clear = np.dstack([grey, grey, grey, 255 - grey])
    contents = {"a": encoded(grey), "b": palette.getvalue(), "c": encoded(clear)}
    files = {f"{s}/{c}/1.png": content for s in ("train", "test") for c, content in contents.items()}
    path = folder(tmp_path, files)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(fetch(path).train.images.x, torch.from_numpy(grey).expand(3, 3, 4, 5))
        assert torch.equal(fetch(path, channels=1).train.images.x, torch.from_numpy(grey).expand(3, 1, 4, 5))


def test_mixed_sizes_are_resized_when_asked(tmp_path: Path) -> None:
    plain = {
        "train/a/1.png": np.full((9, 7, 3), 31, np.uint8),
        "train/b/1.png": np.full((4, 4, 3), 90, np.uint8),
    }
    files = {name: encoded(array) for name, array in plain.items()} | {"test/a/1.png": png(0, 6, 8)}
    path = folder(tmp_path, files)
    source = fetch(path, size=[6, 8])
    assert source.train.images.x.shape == (2, 3, 6, 8)
    assert [int(x.unique()) for x in source.train.images.x] == [31, 90]
    assert torch.equal(source.test.images.x[0], torch.from_numpy(pixels(0, 6, 8).transpose(2, 0, 1)))
    assert fetch(path, size=5).test.images.x.shape == (1, 3, 5, 5)
    assert ImageFolder(path=path, size=(6, 8)).expects == ((3, 6, 8), None)
    assert ImageFolder(path=path, size=5, channels=1).expects == ((1, 5, 5), None)
    assert ImageFolder(path=path).expects == (None, None)


def test_a_missing_test_split_is_cut_from_train_when_asked(tmp_path: Path) -> None:
    files = {f"train/{c}/{k:02}.png": png(10 * n + k) for n, c in enumerate("abc") for k in range(10)}
    path = folder(tmp_path, files)
    source = fetch(path, test=0.2)
    assert torch.bincount(source.test.images.y).tolist() == [2, 2, 2]
    assert torch.bincount(source.train.images.y).tolist() == [8, 8, 8]
    both = torch.cat([source.train.images.x, source.test.images.x]).flatten(1).tolist()
    assert sorted(both) == sorted(seeds(*range(30)).flatten(1).tolist())
    assert torch.equal(fetch(path, test=0.2).test.images.x, source.test.images.x)
    assert not torch.equal(fetch(path, test=0.2, seed=1).test.images.x, source.test.images.x)


def test_a_test_folder_counts_more_than_the_fraction(tmp_path: Path) -> None:
    check_good(fetch(folder(tmp_path, GOOD), test=0.5))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def sixteen_bits() -> bytes:
    return encoded(np.full((4, 5), 40_000, np.uint16))


def bomb() -> bytes:
    """A PNG header that promises 100,000 x 100,000 pixels."""
    return png(0)[:16] + struct.pack(">II", 100_000, 100_000) + png(0)[24:]


def test_unreadable_images_are_all_listed_with_their_reason(tmp_path: Path) -> None:
    bad = {
        "train/cat/c1.png": truncated(png(0, 40, 40)),
        "train/cat/c2.png": b"",
        "train/cat/c3.png": b"<html>not found</html>",
        "train/cat/c4.png": b"GIF89a nonsense",
        "train/cat/c5.png": sixteen_bits(),
        "test/dog/c6.png": bomb(),
    }
    message = refusal(folder(tmp_path, {**GOOD, **bad}))
    assert f"{tmp_path}: unreadable images (6):" in message
    for name in bad:
        assert f"  {tmp_path}/{name}: " in message
    for words in ("it is empty", "HTML page", "16- or 32-bit", "replace or remove them"):
        assert words in message
    assert " at 0x" not in message  # the same message every time


def test_the_first_ten_offenders_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    bad = {f"train/cat/bad{k:02}.png": b"no picture" for k in range(13)}
    message = refusal(archive(tmp_path / "all.zip", {**GOOD, **bad}))
    assert "unreadable images (13):" in message and "... and 3 more" in message
    assert f"{tmp_path}/all.zip/train/cat/bad09.png" in message and "bad10" not in message


def test_a_damaged_member_of_an_archive_is_listed(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "all.zip", GOOD))
    content = bytearray(path.read_bytes())
    at = content.index(GOOD["train/cat/b.png"]) + 45
    content[at] ^= 0xFF
    path.write_bytes(content)
    message = refusal(str(path))
    assert "unreadable images (1):" in message and "train/cat/b.png" in message and "CRC" in message


def test_mixed_sizes_are_listed_with_the_sizes_and_the_remedy(tmp_path: Path) -> None:
    odd = {"train/cat/odd.png": png(7, 8, 6), "test/dog/odd.png": png(8, 4, 4)}
    message = refusal(folder(tmp_path, {**GOOD, **odd}))
    for words in (
        "images without the usual height x width 4 x 5 (2):",
        f"{tmp_path}/train/cat/odd.png: 8 x 6",
        "test/dog/odd.png: 4 x 4",
        "`size: [4, 5]`",
    ):
        assert words in message
    assert "cat/a.PNG" not in message


def test_content_of_one_class_is_refused(tmp_path: Path) -> None:
    files = {name: content for name, content in GOOD.items() if "cat" in name}
    message = refusal(folder(tmp_path, files))
    assert "train has only one class, 'cat' (2):" in message and "train/cat/a.PNG" in message


def test_test_images_of_classes_that_train_lacks_are_listed(tmp_path: Path) -> None:
    files = {**GOOD, "test/cow/1.png": png(9), "test/cow/2.png": png(9), "test/Dog/1.png": png(9)}
    message = refusal(folder(tmp_path, files))
    assert "test images of classes that train lacks (3):" in message and "train has cat, dog" in message
    assert "test/cow/2.png" in message and "test/Dog/1.png" in message


@pytest.mark.parametrize(
    ("keep", "words"),
    [("train", "no pictures in test/CLASS/"), ("test", "no pictures in train/CLASS/"), ("x", "train/")],
)
def test_a_missing_split_is_named_with_the_remedy(keep: str, words: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "data", {k: v for k, v in GOOD.items() if k.startswith(keep)})
    Path(path).mkdir(exist_ok=True)
    message = refusal(path)
    assert words in message and path in message
    assert ("`test: 0.2`" in message) == (keep == "train")


@pytest.mark.parametrize(
    "stray",
    [
        "train/1.png",
        "cat/1.png",
        "1.png",
        "train/cat/deep/1.png",
        "train/cat/a/b/1.png",
        "train/cat/1.tiff",
        "train/cat/labels.csv",
        "dev/cat/1.png",
    ],
)
def test_files_in_wrong_places_are_listed_and_never_skipped(stray: str, tmp_path: Path) -> None:
    path = folder(tmp_path, {**GOOD, stray: png(0)})
    message = refusal(path)
    assert "files that fit no place in split/class/picture (1):" in message and f"{path}/{stray}" in message


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"", "it is empty"),
        (b"<html><body>Sign in</body></html>", "HTML page"),
        (b"PK\x03\x04 and so on", "not a zip"),
    ],
)
def test_an_archive_that_is_none_is_named(content: bytes, remark: str, tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    path.write_bytes(content)
    message = refusal(str(path))
    assert str(path) in message and remark in message


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "all.zip", GOOD))
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: not a directory or a whole zip file" in refusal(str(path))


def test_a_path_that_does_not_exist_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    message = refusal("no/such/place")
    assert "no/such/place" in message and str(Path.cwd()) in message


def test_a_source_named_twice_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", GOOD)
    (tmp_path / "link").symlink_to(path)
    assert "named twice" in refusal([path, str(tmp_path / "link")])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, listed = folder(tmp_path, GOOD), os.scandir

    def scandir(place: str) -> object:
        if place.endswith("cat"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "/cat: Permission denied" in refusal(path)


def test_a_class_too_small_to_be_cut_is_refused(tmp_path: Path) -> None:
    files = {"train/a/1.png": png(0), "train/b/1.png": png(1)}
    assert "change `test`" in refusal(folder(tmp_path, files), test=0.5)


def test_names_that_leave_the_archive_write_nothing(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "all.zip", {**GOOD, "../../evil.png": png(0), "train/cat/../../../evil.png": png(0)}
    )
    check_good(fetch(path))
    assert [found.name for found in tmp_path.iterdir()] == ["all.zip"]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    path = folder(tmp_path, GOOD)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path)
    assert "fit no place" in refusal(path)


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"path": ""},
        {"path": []},
        {"path": "x", "channels": 2},
        {"path": "x", "size": 0},
        {"path": "x", "test": 1},
    ]
    + [{"path": "x", "size": [1, 2, 3]}, {"path": "x", "sise": 3}],
)
def test_impossible_parameters_are_refused(block: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ImageFolder).validate_python(block)


@pytest.mark.skipif(REAL is None, reason="set DECONFOUND_DATA to a folder with mnist/ and cifar10/")
def test_the_real_cifar10_has_its_known_counts_and_means() -> None:
    paths = [f"{REAL}/cifar10/{name}.zip" for name in ("train-0", "train-1", "train-2", "test")]
    source = fetch(paths)
    assert torch.bincount(source.train.images.y).tolist() == [5000] * 10
    assert torch.bincount(source.test.images.y).tolist() == [1000] * 10
    means = source.train.images.x.double().mean((0, 2, 3)) / 255
    assert [round(float(mean), 4) for mean in means] == [0.4914, 0.4822, 0.4465]
    assert source.classes[0] == "airplane" and source.classes[9] == "truck"
