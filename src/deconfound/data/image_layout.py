"""Which pictures directories and zip files hold, and whether they make a data set: names only, no pixels.

The layout is `split/class/picture`. One outer folder around the splits is allowed, as archives often have it.
Hidden files and `__MACOSX` do not count; every other stranger inside the splits is refused, never skipped.
"""

import logging
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deconfound.data.downloads import looks_like
from deconfound.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLITS = ("train", "val", "test")
NO_CONTENT = ("__MACOSX", "Thumbs.db", "desktop.ini")
log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A picture not yet read, `member` of the directory or zip file `place`; entries sort as the data set."""

    split: str
    label: str
    name: str
    place: Path
    member: str

    def __str__(self) -> str:
        return f"{self.place}/{self.member}"


class Reader(NamedTuple):
    """What a place offers: names with `/` between folders, sorted, and a function from a name to bytes."""

    names: list[str]
    read: Callable[[str], bytes]


def listing(what: str, rows: list[str], advice: str) -> str:
    """A message with a count, the first ten rows, and what to do."""
    more = [f"  ... and {len(rows) - 10} more"] if len(rows) > 10 else []
    return "\n".join(
        [f"{what} ({len(rows)}):", *(f"  {row}" for row in rows[:10]), *more, f"To mend it, {advice}."]
    )


def open_source(place: Path, stack: ExitStack) -> Reader:
    """Read the names of a directory or zip file; an archive stays open until `stack` closes."""
    if place.is_dir():
        return Reader(sorted(_walk(place)), lambda name: (place / name).read_bytes())
    if not place.exists():
        raise DataError(f"{place}: no such directory or zip file (seen from {Path.cwd()})")
    try:
        archive = stack.enter_context(zipfile.ZipFile(place))
    except (OSError, zipfile.BadZipFile) as error:
        remark = f"{error}{looks_like(place)}"
        raise DataError(f"{place}: not a directory or a whole zip file: {remark}; get it again") from error
    return Reader(sorted({name for name in archive.namelist() if not name.endswith("/")}), archive.read)


def _walk(place: Path) -> Iterator[str]:
    """Files, links followed; folders too deep for the layout are named, not entered, which ends a circle."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{place}: cannot list {error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(place, followlinks=True, onerror=refuse):
        inside = PurePosixPath(Path(folder).relative_to(place).as_posix())
        if len(inside.parts) >= 4:
            yield from (str(inside / name) for name in folders)
            folders.clear()
        yield from (str(inside / name) for name in files)


def entries_of(sources: Mapping[Path, Reader]) -> list[Entry]:
    """All pictures of all sources, sorted; DataError for pictures and strangers in wrong places."""
    found, strays = [], []
    for place, source in sources.items():
        parted = [(name, PurePosixPath(name).parts) for name in source.names]
        parted = [(name, parts) for name, parts in parted if not _hidden(parts)]
        outer = {parts[0] for _, parts in parted if len(parts) > 1}
        depth = 1 if len(outer) == 1 and not outer & set(SPLITS) else 0
        for name, parts in parted:
            inner = parts[depth:]
            picture = name.lower().endswith(SUFFIXES)
            if len(inner) == 3 and inner[0] in SPLITS and picture:
                found.append(Entry(*inner, place, name))
            elif picture or (len(inner) >= 3 and inner[0] in SPLITS):
                strays.append(f"{place}/{name}")
    if strays:
        advice = (
            f"move pictures to train/CLASS/ or test/CLASS/ (they end in {', '.join(SUFFIXES)}), the rest away"
        )
        raise DataError(listing("files that fit no place in split/class/picture", strays, advice))
    return sorted(found)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part in NO_CONTENT for part in parts)


def check(entries: list[Entry], where: str, *, need_test: bool) -> tuple[list[Entry], tuple[str, ...]]:
    """The entries with `val` counted as `train`, and the class names; DataError if they make no data set."""
    if val := sum(entry.split == "val" for entry in entries):
        log.warning("%s: %d images of `val` go to `train`, from which the pipeline cuts its own", where, val)
        entries = sorted(e._replace(split="train") if e.split == "val" else e for e in entries)
    by_class = Counter(entry.label for entry in entries if entry.split == "train")
    if not by_class:
        raise DataError(f"{where}: no pictures in train/CLASS/ (they end in {', '.join(SUFFIXES)})")
    if len(by_class) < 2:
        rows = [str(entry) for entry in entries if entry.split == "train"]
        raise DataError(
            listing(f"{where}: train has only one class, {next(iter(by_class))!r}", rows, "add another class")
        )
    if need_test and not any(entry.split == "test" for entry in entries):
        raise DataError(
            f"{where}: no pictures in test/CLASS/; add them, or set `test: 0.2` to hold back a fifth of train"
        )
    if unknown := [str(e) for e in entries if e.split == "test" and e.label not in by_class]:
        advice = f"add the class to train, or rename its folder (train has {', '.join(sorted(by_class))})"
        raise DataError(listing(f"{where}: test images of classes that train lacks", unknown, advice))
    return entries, tuple(sorted(by_class))
