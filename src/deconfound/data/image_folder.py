"""A person's own images: a directory or zip files with `split/class/picture.png`, read without unpacking.

Splits are `train` and `test`. A `val` folder is added to `train`, from which the pipeline cuts its own
`val`.
"""

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BeforeValidator, Field

from deconfound.data.downloads import foreign
from deconfound.data.image_layout import Entry, Reader, check, entries_of, listing, open_source
from deconfound.data.splits import stratified
from deconfound.errors import DataError
from deconfound.fields import Count, Natural, OpenFraction, hyperparameters, integer
from deconfound.types import Images, Source, Split

UNREADABLE = (
    *(OSError, ValueError, RuntimeError, SyntaxError, EOFError, MemoryError, struct.error, zlib.error),
    *(zipfile.BadZipFile, Image.DecompressionBombError, Image.DecompressionBombWarning),
)
Pixels = NDArray[np.uint8]


@hyperparameters
class ImageFolder:
    """path: a directory, a zip file, or several of them, merged; relative to where the command runs.

    test: which fraction of `train` becomes the test split if there is no `test` folder (stratified). seed:
    of that cut. size: resize all pictures to (height, width), or to a square (bilinear; proportions are not
    kept). channels: 3 converts all to RGB, 1 to grey.
    """

    path: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    test: OpenFraction | None = None
    seed: Natural = 0
    size: Count | tuple[Count, Count] | None = None
    channels: Annotated[Literal[1, 3], BeforeValidator(integer)] = 3

    @property
    def expects(self) -> tuple[tuple[int, int, int] | None, int | None]:
        """Shape (C, H, W) if the pictures are resized; the classes are known after the fetch."""
        return (None if self.size is None else (self.channels, *_sides(self.size))), None

    def fetch(self, cache: Path) -> Source:
        """x (N, C, H, W) uint8, ordered by class and name; classes are the sorted folder names of train.

        Nothing is written. Raises DataError, which lists the files at fault.
        """
        places = [Path(p).expanduser() for p in ([self.path] if isinstance(self.path, str) else self.path)]
        where = ", ".join(map(str, places))
        if len({place.resolve() for place in places}) < len(places):
            raise DataError(f"{where}: a source is named twice; name each once")
        with ExitStack() as stack:
            sources = {place: open_source(place, stack) for place in places}
            entries, classes = check(entries_of(sources), where, need_test=self.test is None)
            pixels = self._read(entries, sources, where)
        y = torch.tensor([classes.index(entry.label) for entry in entries])
        held = torch.tensor([entry.split == "test" for entry in entries])
        train, test = (~held).nonzero().flatten(), held.nonzero().flatten()
        if not len(test):
            train, test = self._cut(y, where)
        return Source(_split(pixels, y, train), _split(pixels, y, test), classes)

    def _cut(self, y: torch.Tensor, where: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of train and of a test split cut from it; DataError if one of them lacks too much."""
        assert self.test is not None
        train, test = stratified(y, self.test, seed=self.seed, purpose="image_folder/test")
        if not len(test) or set(y.tolist()) != set(y[train].tolist()):
            what = (
                f"{where}: with `test: {self.test:g}` of {len(y)} images the test split, or a class of train,"
            )
            raise DataError(f"{what} is empty; add images or change `test`")
        return train, test

    def _read(self, entries: list[Entry], sources: Mapping[Path, Reader], where: str) -> list[Pixels]:
        size = None if self.size is None else _sides(self.size)
        pixels, unreadable = [], []
        for entry in entries:
            try:
                pixels.append(decode(sources[entry.place].read(entry.member), self.channels, size))
            except UNREADABLE as error:
                unreadable.append(f"{entry}: {str(error) or type(error).__name__}")
        if unreadable:
            raise DataError(listing(f"{where}: unreadable images", unreadable, "replace or remove them"))
        shapes = Counter(array.shape[1:] for array in pixels)
        height, width = max(shapes, key=lambda shape: (shapes[shape], shape))
        pairs = [(entry, array.shape[1:]) for entry, array in zip(entries, pixels, strict=True)]
        if odd := [f"{entry}: {h} x {w}" for entry, (h, w) in pairs if (h, w) != (height, width)]:
            what = f"{where}: mixed sizes; images without the usual height x width {height} x {width}"
            raise DataError(
                listing(what, odd, f"set `size: [{height}, {width}]` to resize all, or replace them")
            )
        return pixels


def decode(content: bytes, channels: int, size: tuple[int, int] | None) -> Pixels:
    """A picture as (C, H, W) uint8, upright by its EXIF; raises if Pillow cannot read it or it has 16 bits.

    Transparency is dropped. size: (height, width) to resize to, if any.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP", "WEBP"))
    except UnidentifiedImageError:
        raise ValueError(f"not a PNG, JPEG, BMP or WebP picture{foreign(content[:512])}") from None
    with opened:
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"16- or 32-bit values (mode {opened.mode}); convert it to 8 bits per channel")
        picture = ImageOps.exif_transpose(opened) if opened.format == "JPEG" else opened
        if picture.mode == "P":  # a palette may hold transparency, which Pillow wants as RGBA first
            picture = picture.convert("RGBA")
        picture = picture.convert("RGB" if channels == 3 else "L")
        if size is not None and picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        array = np.array(picture)
    return np.ascontiguousarray(array.reshape(*array.shape[:2], channels).transpose(2, 0, 1))


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _split(pixels: list[Pixels], y: torch.Tensor, part: torch.Tensor) -> Split:
    return Split(Images(torch.from_numpy(np.stack([pixels[i] for i in part.tolist()])), y[part]))
