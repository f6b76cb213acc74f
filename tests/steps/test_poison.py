"""The manifest: a few kilobytes from which a poisoned set is made again, byte for byte."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import tiny_images, write_images

from deconfound.errors import ConfigError, DataError
from deconfound.steps import poison, train
from deconfound.storage import array_digest, read_json, read_npz, write_json

SPEC: dict[str, Any] = {
    "poison": {"kind": "badnets", "rate": 0.2, "target": 1, "cover": 0.1, "trigger": {"size": 2, "margin": 0}}
}


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.chdir(tmp_path)
    names = {"train": 60, "test": 30, "val": 9}
    return {
        name: write_images(tmp_path / f"{name}.npz", tiny_images(count, seed=seed))
        for seed, (name, count) in enumerate(names.items())
    }


def made(splits: dict[str, Path], out: Path, spec: dict[str, Any] = SPEC, seed: int = 3) -> dict[str, Any]:
    poison.run(train=splits["train"], test=splits["test"], spec=spec, seed=seed, out=out)
    found: dict[str, Any] = read_json(out.with_suffix(".json"))
    return found


def test_a_manifest_makes_the_poisoned_set_again_byte_for_byte(
    splits: dict[str, Path], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    made(splits, one)
    clean = {"train": splits["train"], "test": splits["test"]}
    poison.again(**clean, manifest=one.with_suffix(".json"), out=two)
    assert one.read_bytes() == two.read_bytes()


def test_a_manifest_names_who_was_poisoned_and_what_came_out(splits: dict[str, Path], tmp_path: Path) -> None:
    found = made(splits, tmp_path / "one.npz")
    arrays = read_npz(tmp_path / "one.npz")
    assert (found["seed"], found["images"], found["spec"]) == (3, 60, SPEC)
    for name, key, count in (("poisoned", "mask", 12), ("cover", "cover", 6)):
        bits = np.frombuffer(base64.b64decode(found[name]["bits"]), np.uint8)
        places = np.unpackbits(bits, count=60, bitorder="little").astype(bool)
        assert found[name]["count"] == count == places.sum() and (places == arrays[key]).all()
    clean = read_npz(splits["train"])
    assert found["checksums"]["clean"] == array_digest(clean["x"], clean["y"])
    assert found["checksums"]["poisoned"] == array_digest(arrays["x"], arrays["y"])
    assert found["checksums"]["triggered"] == array_digest(arrays["test_x"], arrays["test_y"])


def test_a_manifest_of_fifty_thousand_images_is_a_few_kilobytes() -> None:
    mask = torch.zeros(50_000, dtype=torch.bool)
    mask[::7] = True
    assert len(json.dumps(poison._places(mask))) < 8500


def test_another_training_set_than_the_manifests_is_refused(splits: dict[str, Path], tmp_path: Path) -> None:
    made(splits, tmp_path / "one.npz")
    other = write_images(tmp_path / "other.npz", tiny_images(60, seed=8))
    with pytest.raises(DataError, match="other.npz: not the training set that"):
        poison.again(
            train=other, test=splits["test"], manifest=tmp_path / "one.json", out=tmp_path / "two.npz"
        )
    assert not (tmp_path / "two.npz").exists()


@pytest.mark.parametrize("key", ["poisoned", "cover", "checksums"])
def test_a_manifest_that_promises_something_else_is_refused(
    key: str, splits: dict[str, Path], tmp_path: Path
) -> None:
    found = made(splits, tmp_path / "one.npz")
    found[key] = found[key] | {"count": 0} if key != "checksums" else found[key] | {"triggered": "0"}
    write_json(tmp_path / "edited.json", found)
    with pytest.raises(DataError, match=f"expected the same {key} again"):
        poison.again(
            train=splits["train"],
            test=splits["test"],
            manifest=tmp_path / "edited.json",
            out=tmp_path / "two.npz",
        )
    assert not (tmp_path / "two.npz").exists()


def test_a_poison_that_trains_for_itself_is_not_started_without_a_recipe(
    splits: dict[str, Path], tmp_path: Path
) -> None:
    spec = SPEC | {"surrogate": {"kind": "small_cnn", "widths": [2], "hidden": 4}}
    with pytest.raises(ConfigError, match="training"):
        made(splits, tmp_path / "one.npz", spec)


def test_no_defense_sees_the_poison_mask(splits: dict[str, Path], tmp_path: Path) -> None:
    made(splits, tmp_path / "with.npz")
    arrays = read_npz(tmp_path / "with.npz")
    without = tmp_path / "without.npz"
    np.savez(without, x=arrays["x"], y=arrays["y"], classes=arrays["classes"])
    spec = {
        "model": {"kind": "small_cnn", "widths": [4], "hidden": 8},
        "training": {"epochs": 1, "batch_size": 20},
        "defense": {"kind": "cbd", "biased_epochs": 1, "mi_weight": 0.5},
    }
    run = {"dataset": "d", "poison": "badnets", "model": "cnn", "defense": "cbd", "seed": 0}
    for name, file in (("masked", tmp_path / "with.npz"), ("free", without)):
        common = {"val": splits["val"], "spec": spec, "run": run, "device": torch.device("cpu")}
        train.run(train=file, out=tmp_path / name, scratch=tmp_path / "scratch", **common)
    for file in ("model.safetensors", "trace.npz", "parts.safetensors"):
        assert (tmp_path / "masked" / file).read_bytes() == (tmp_path / "free" / file).read_bytes(), file
