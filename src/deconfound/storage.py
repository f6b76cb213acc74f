"""Files: atomic writes, no pickle, checksums, provenance. The only module that touches the formats.

Arrays are npz, weights safetensors, everything else JSON. A reader meets the old file or the new one,
never a part of either.
"""

import errno
import glob
import hashlib
import json
import os
import platform
import struct
import subprocess
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deconfound.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = Path(__file__).resolve().parent
Array = NDArray[np.generic]
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` on success and removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name[:40])}.*.part"):
        if not _alive(left.suffixes[-2][1:].partition("-")[0]):  # its writer was killed
            left.unlink(missing_ok=True)
    prefix = f".{path.name[:40]}.{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"{path}: no space left on the disk; free some and run the same command"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    """Does a process of this number run? Anything that is no number counts as alive: not ours to judge."""
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, keys keep their order."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or foreign file is a DataError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected a JSON file of this project: {error}") from error


def write_npz(path: Path, arrays: Mapping[str, Array], *, about: Mapping[str, Any] | None = None) -> None:
    """Write arrays (and provenance as JSON text under `about`) atomically; same arrays, same bytes."""
    content = dict(arrays)
    if about is not None:
        content["about"] = np.array(json.dumps(about, sort_keys=True, ensure_ascii=False))
    for name, array in content.items():
        if array.dtype.hasobject:
            raise TypeError(f"{path}: array {name!r} would need pickle")
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **content)


DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError)
DAMAGE += (zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError)  # type: ignore[assignment]


def read_npz(path: Path, *names: str) -> dict[str, Array]:
    """Read the named arrays (all of them if none is named) from an npz file; no pickle."""
    try:
        with zipfile.ZipFile(path):  # refuses anything else before numpy guesses
            archive = np.load(path, allow_pickle=False)
        with archive:
            found = {name: archive[name] for name in names or archive.files if name in archive.files}
            present = list(archive.files)
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise ValueError("it holds files that are no arrays")
    except DAMAGE as error:
        raise DataError(f"{path}: not a readable npz file ({error}); remove it and run again") from error
    if missing := [name for name in names if name not in present]:
        raise DataError(f"{path}: expected arrays {', '.join(missing)}; found {', '.join(present) or 'none'}")
    return found


def write_weights(path: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write tensors as safetensors, atomically; same tensors, same bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            if "os error 28" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise


def read_weights(path: Path) -> dict[str, "Tensor"]:
    """Read tensors from safetensors; a truncated or foreign file is a DataError that names it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path}: not a readable safetensors file ({error}); remove it and run again"
        ) from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; a DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def digest(value: Any) -> str:
    """Short digest of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def array_digest(*arrays: Array) -> str:
    """Hexadecimal SHA-256 of the content of arrays: dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@cache
def commit() -> str | None:
    """Commit of the source in use, with `+` when the package differs from it; None outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", SOURCE, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(SOURCE)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """What a number may depend on besides the source: processor family, system, threads, accelerator."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or "unknown"


def provenance(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Where an artifact comes from: commit, versions, machine, and the checksum of each input."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "inputs": {name: {"path": str(path), "sha256": sha256(path)} for name, path in inputs.items()},
    }
