import errno
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deconfound import storage
from deconfound.errors import DataError, UserError
from deconfound.storage import (
    atomic,
    digest,
    provenance,
    read_json,
    read_npz,
    read_weights,
    sha256,
    write_json,
    write_npz,
    write_text,
    write_weights,
)

ARRAYS = {"x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "classes": np.array(["eins", "zwei ü"])}
WEIGHTS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3), "c": torch.tensor([True, False])}
WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "hallo ü\n"),
    "json": lambda path: write_json(path, {"b": 1, "a": [0.1, None]}),
    "npz": lambda path: write_npz(path, ARRAYS, about={"spec": {"eps": 0.1}}),
    "safetensors": lambda path: write_weights(path, WEIGHTS),
}
READERS: dict[str, Callable[[Path], Any]] = {"json": read_json, "npz": read_npz, "safetensors": read_weights}
tmp = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_an_atomic_write_shows_nothing_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    with atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".part")
        temporary.write_text("new")
        written = temporary.stat().st_ino
        assert not path.exists()
    assert path.read_text() == "new"
    assert path.stat().st_ino == written, "the file was copied instead of renamed"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error", [RuntimeError("killed"), KeyboardInterrupt(), OSError(errno.EIO, "input/output")]
)
def test_a_failure_in_the_middle_of_a_write_leaves_the_old_file_and_nothing_else(
    error: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of content fails as on a full disk; safetensors has an error of its own for it."""

    def no_space(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_space_for_tensors(*args: Any, **kwargs: Any) -> None:  # as measured on a full file system
        raise safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(Path, "write_text", no_space)
    monkeypatch.setattr(Path, "write_bytes", no_space)
    monkeypatch.setattr(np, "savez_compressed", no_space)
    monkeypatch.setattr(safetensors.torch, "save_file", no_space_for_tensors)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_said_in_one_sentence_and_leaves_the_old_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_bytes(b"old")
    full_disk(monkeypatch)
    with pytest.raises(UserError) as caught:
        WRITERS[kind](path)
    assert str(caught.value) == f"{path}: no space left on the disk; free some and run the same command"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_other_faults_of_the_disk_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_content_gives_the_same_bytes_under_any_name_at_any_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[kind](tmp_path / "one")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    WRITERS[kind](tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_bytes_do_not_depend_on_the_order_or_the_memory_of_tensors(tmp_path: Path) -> None:
    turned = {
        key: WEIGHTS[key].T.contiguous().T if WEIGHTS[key].dim() == 2 else WEIGHTS[key] for key in "cab"
    }
    write_weights(tmp_path / "one", WEIGHTS)
    write_weights(tmp_path / "two", turned)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write_npz(tmp_path / "three", ARRAYS, about={"a": 1, "b": 2})
    write_npz(tmp_path / "four", ARRAYS, about={"b": 2, "a": 1})
    assert (tmp_path / "three").read_bytes() == (tmp_path / "four").read_bytes()


@tmp
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_as_they_went(tmp_path: Path, array: Any) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"x": array}, about={"seed": 1})
    found = read_npz(path)
    assert sorted(found) == ["about", "x"]
    assert (found["x"].dtype, found["x"].shape, found["x"].tobytes()) == (
        array.dtype,
        array.shape,
        array.tobytes(),
    )
    assert json.loads(str(found["about"])) == {"seed": 1}


def test_weights_come_back_as_they_went(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, {"p": torch.nn.Parameter(torch.ones(2)), **WEIGHTS})
    found = read_weights(path)
    assert {key: value.dtype for key, value in found.items()} == {
        "a": torch.int64,
        "b": torch.float32,
        "c": torch.bool,
        "p": torch.float32,
    }
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@tmp
@given(json_values.filter(lambda value: "\\ud" not in json.dumps(value)))
def test_json_comes_back_as_it_went(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_keeps_the_order_of_keys_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": "ü", "a": 1})
    assert path.read_text(encoding="utf-8") == '{\n "b": "ü",\n "a": 1\n}\n'
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(path, {"a": bad})
    assert list(read_json(path)) == ["b", "a"]


class Bomb:
    """Unpickling it writes a file: nothing may ever do that."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_an_array_of_objects_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for array in (np.array([{}], object), np.array([(1, "a")], [("n", int), ("o", object)])):
        with pytest.raises(TypeError, match="'bad' would need pickle"):
            write_npz(path, {"x": np.zeros(1), "bad": array})
    assert list(tmp_path.iterdir()) == []


def npy(array: Any) -> bytes:
    """The content of an npy file: a single array, where an npz file is expected."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    bomb = Bomb(mark)
    plain, array, packed = tmp_path / "plain.npz", tmp_path / "array.npz", tmp_path / "packed.npz"
    plain.write_bytes(pickle.dumps(bomb))
    array.write_bytes(npy(np.array([bomb], object)))
    np.savez(packed, x=np.array([bomb], object))
    for path in (plain, array, packed):
        with pytest.raises(DataError, match=path.name):
            read_npz(path, "x")
        with pytest.raises(DataError, match=path.name):
            read_npz(path)
        with pytest.raises(DataError, match=path.name):
            read_weights(path)
        with pytest.raises(DataError, match=path.name):
            read_json(path)
    assert not mark.exists()


def foreign(tmp_path: Path) -> Iterator[Path]:
    texts = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html>",
        "zeros": bytes(200),
        "noise": bytes(range(128, 256)),
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        yield tmp_path / name
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    yield tmp_path / "zip"
    (tmp_path / "npy").write_bytes(npy(np.arange(3)))
    yield tmp_path / "npy"
    (tmp_path / "folder").mkdir()
    yield tmp_path / "folder"
    yield tmp_path / "missing"


@pytest.mark.parametrize("kind", READERS)
def test_a_foreign_or_missing_file_is_a_data_error_that_names_it(kind: str, tmp_path: Path) -> None:
    for path in foreign(tmp_path):
        with pytest.raises(DataError) as caught:
            READERS[kind](path)
        assert str(caught.value).startswith(f"{path}: "), path.name


@pytest.mark.parametrize("kind", READERS)
def test_a_file_cut_off_anywhere_is_a_data_error_that_names_it(kind: str, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut"
    WRITERS[kind](whole)
    content = whole.read_bytes()
    end = len(content) - (1 if kind == "json" else 0)  # without its last line end JSON is still complete
    for length in range(0, end, max(1, end // 60)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=str(path)):
            READERS[kind](path)


@tmp
@given(st.data())
def test_a_damaged_npz_is_a_data_error_or_unharmed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = read_npz(path, *ARRAYS)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_missing_arrays_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    with pytest.raises(DataError, match="expected arrays mask, y; found x, classes"):
        read_npz(path, "x", "mask", "y")
    assert list(read_npz(path, "x")) == ["x"]


def test_a_checksum_is_that_of_the_standard(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=2, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys_and_does_on_every_value(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert (
        digest(value)
        == digest(turned)
        == hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
    )
    key = next(iter(value))
    assert digest(value | {key: [value[key]]}) != digest(value)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small git repository that stands for the source in use, in its folder `src`."""
    for name, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(storage, "SOURCE", source)
    storage.commit.cache_clear()
    yield source
    storage.commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit() -> str | None:
    storage.commit.cache_clear()
    return storage.commit()


def test_the_commit_has_a_plus_when_the_source_differs_from_it(checkout: Path) -> None:
    git(checkout.parent, "init", "-q")
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "-q", "-m", "one")
    head = git(checkout.parent, "rev-parse", "HEAD")
    assert commit() == head and len(head) == 40
    (checkout.parent / "notes.txt").write_text("outside of the source")
    assert commit() == head
    (checkout / "b.py").write_text("new")
    assert commit() == f"{head}+"
    (checkout / "b.py").unlink()
    (checkout / "a.py").write_text("x = 2\n")
    assert commit() == f"{head}+"


def test_outside_a_checkout_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_provenance_says_commit_versions_machine_and_the_checksum_of_every_input(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    found = provenance({"train": path})
    assert sorted(found) == ["commit", "inputs", "machine", "versions"]
    assert found["inputs"] == {"train": {"path": str(path), "sha256": sha256(path)}}
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["machine"]["threads"] == str(torch.get_num_threads())
    assert json.loads(json.dumps(found)) == found and provenance({"train": path}) == found


def test_the_part_of_a_killed_writer_goes_with_the_next_write_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    killed, living = tmp_path / f".a.json.{dead.pid}-x1.part", tmp_path / f".a.json.{os.getpid()}-x2.part"
    for part in (killed, living):
        part.write_text("half")
    write_json(tmp_path / "a.json", 1)
    assert not killed.exists() and living.exists()
