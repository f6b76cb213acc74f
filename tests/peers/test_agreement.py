"""Our attacks against four other implementations, on an undefended and on an adversarially trained network."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers import require, run_peer
from torch import Tensor
from trained_models import digits, trained

from deconfound.attacks.apgd import APGD
from deconfound.attacks.autoattack import AutoAttack
from deconfound.attacks.cw_l2 import CarliniWagner
from deconfound.attacks.ddn import DDN
from deconfound.attacks.deepfool import DeepFool
from deconfound.attacks.fgsm import FGSM
from deconfound.attacks.pgd import PGD
from deconfound.engine import Engine
from deconfound.models.classifier import predict, to_unit
from deconfound.types import Images

MODELS = ("standard", "adversarial_training")
POINTS = 0.005  # half a point of robust accuracy
# The peers report an image as broken when any iterate breaks it, and so does early stop. A random start alone moves
# the robust accuracy by more than that where it is steep in eps; restarts level it out.
APGD_OPTIONS: dict[str, dict[str, Any]] = {
    "standard": {"eps": 0.2, "restarts": 2},
    "adversarial_training": {"eps": 0.05, "restarts": 3},
}


@pytest.fixture(autouse=True, scope="module")
def _peers() -> None:
    require()


@cache
def images(count: int = 500) -> Images:
    _, test = digits()
    return Images(test.x[:count], test.y[:count])


def robust(name: str, x_adv: Tensor, count: int = 500) -> float:
    """Part of the images that the model gets right both untouched and attacked."""
    clean = predict(trained(name), images(count).x).argmax(1) == images(count).y
    return float((clean & (predict(trained(name), x_adv).argmax(1) == images(count).y)).double().mean())


def ours(name: str, attack: Any, count: int = 500) -> Tensor:
    x, y = to_unit(images(count).x), images(count).y
    found: Tensor = attack(trained(name), x, y, rng=torch.Generator().manual_seed(0))
    return found


@cache
def theirs(library: Any, name: str) -> dict[str, Tensor]:
    """Everything that is asked of a library on one model, in one process."""
    pgd = {"kind": "pgd", "eps": 0.2, "steps": 20, "step_size": 0.025, "random_start": False}
    apgd: dict[str, Any] = {kind: APGD_OPTIONS[name] for kind in ("apgd_ce", "apgd_dlr")}
    asked: dict[str, dict[str, Any]] = {
        "torchattacks": {"fgsm": {"eps": 0.2}, "pgd": pgd, **apgd},
        "foolbox": {"fgsm": {"eps": 0.2}, "pgd": pgd},
        "art": {"fgsm": {"eps": 0.2}, "pgd": pgd},
        "pyautoattack": apgd,
    }
    if library == "foolbox":
        asked["foolbox"]["pgd_l2"] = pgd | {"norm": "l2", "eps": 1.0, "step_size": 0.125}
    found = run_peer(library, asked[library], trained(name), to_unit(images().x), images().y)
    return {attack: torch.from_numpy(x_adv) for attack, x_adv in found.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_fgsm_equals_the_peers_to_the_bit(library: str, name: str) -> None:
    assert torch.equal(ours(name, FGSM(eps=0.2)), theirs(library, name)["fgsm"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_pgd_leaves_the_same_robust_accuracy_as_the_peers(library: str, name: str) -> None:
    attack = PGD(eps=0.2, steps=20, step_size=0.025, random_start=False)
    assert abs(robust(name, ours(name, attack)) - robust(name, theirs(library, name)["pgd"])) <= POINTS


@pytest.mark.parametrize("name", MODELS)
def test_pgd_in_l2_leaves_the_same_robust_accuracy_as_foolbox(name: str) -> None:
    attack = PGD(eps=1.0, norm="l2", steps=20, step_size=0.125, random_start=False)
    assert abs(robust(name, ours(name, attack)) - robust(name, theirs("foolbox", name)["pgd_l2"])) <= POINTS


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", ["torchattacks", "pyautoattack"])
@pytest.mark.parametrize(("score", "kind"), [("cross_entropy", "apgd_ce"), ("dlr", "apgd_dlr")])
def test_apgd_leaves_the_same_robust_accuracy_as_the_peers(
    score: Any, kind: str, library: str, name: str
) -> None:
    found = robust(name, ours(name, APGD(score=score, early_stop=True, **APGD_OPTIONS[name])))
    assert abs(found - robust(name, theirs(library, name)[kind])) <= POINTS


@pytest.mark.parametrize("name", MODELS)
def test_autoattack_leaves_the_same_robust_accuracy_as_pyautoattack(name: str) -> None:
    engine = Engine(trained(name), images(400), 0)
    left, _ = engine.standing(AutoAttack(eps=0.2), "autoattack", np.flatnonzero(engine.clean))
    peer = run_peer(
        "pyautoattack", {"autoattack": {"eps": 0.2}}, trained(name), to_unit(images(400).x), images(400).y
    )
    theirs = robust(name, torch.from_numpy(peer["autoattack"]), 400)
    assert abs(len(left) / 400 - theirs) <= POINTS


NORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cw_l2": (CarliniWagner(eps=100.0, steps=1000, searches=9), {"search_steps": 9, "steps": 1000}),
    "ddn": (DDN(eps=100.0, steps=100), {"steps": 100}),
    "deepfool": (DeepFool(eps=100.0, norm="l2"), {}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attack", NORMS)
def test_perturbations_are_no_larger_than_those_of_foolbox_by_more_than_two_per_cent(
    attack: str, name: str, tmp_path: Path
) -> None:
    count = 40
    mine, options = NORMS[attack]
    x, y = to_unit(images(count).x), images(count).y
    peer = run_peer("foolbox", {attack: options}, trained(name), x, y)
    found = {"ours": ours(name, mine, count), "theirs": torch.from_numpy(peer[attack])}
    right = predict(trained(name), x).argmax(1) == y
    broken = {who: predict(trained(name), z).argmax(1) != y for who, z in found.items()}
    assert (broken["ours"][right]).sum() >= (broken["theirs"][right]).sum()
    both = right & broken["ours"] & broken["theirs"]
    norms = {who: (z - x)[both].flatten(1).norm(dim=1) for who, z in found.items()}
    assert both.sum() > 0.9 * count
    assert norms["ours"].mean() <= 1.02 * norms["theirs"].mean()
    assert norms["ours"].median() <= 1.02 * norms["theirs"].median()
