"""Hits by hand on a model that reads its answer off the first pixel."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle_models import CPU, DUAL, linear_problem, tiny_images, write_images
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor, nn

from deconfound import engine as engine_module
from deconfound.engine import Engine
from deconfound.entries import Entry, unpack
from deconfound.errors import ConfigError, UserError
from deconfound.evaluation import Evaluation
from deconfound.fields import Eps, hyperparameters
from deconfound.measures import auroc, poison_measures, training_measures
from deconfound.models.classifier import predict
from deconfound.progress import Tick
from deconfound.steps import attack as attack_step
from deconfound.steps import evaluate as evaluate_step
from deconfound.steps import poison as poison_step
from deconfound.steps import train as train_step
from deconfound.storage import read_json, read_npz, read_weights
from deconfound.threat import Norm, ThreatModel
from deconfound.types import Images

LABELS = 6


def silent(remark: str = "", advance: int = 1) -> None:
    """Progress that nobody watches."""


class Reader(nn.Module):
    """Says the grey level of the first pixel, modulo six."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        level = (x[:, 0, 0, 0] * 255).round().long() % LABELS
        return nn.functional.one_hot(level, LABELS).float() * self.weight


def pictures(says: list[int], base: int = 60) -> Tensor:
    """Images (N, 1, 2, 2) uint8 that the reader calls as listed."""
    x = torch.full((len(says), 1, 2, 2), 128, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.tensor([base + label for label in says], dtype=torch.uint8)
    return x


SAYS = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
TRUE = [0, 1, 2, 3, 4, 5, 1, 1, 0, 3]  # wrong on the images 6 and 8
CLEAN = [a == b for a, b in zip(SAYS, TRUE, strict=True)]
TEST = Images(pictures(SAYS), torch.tensor(TRUE))


class EachAlone(Evaluation):
    """Every attack is measured by itself."""

    def robust(self, attacks: Mapping[str, Mapping[str, Any]], tick: Tick, *, alone: Any = None) -> None:
        super().robust(attacks, tick, alone=attacks)


def evaluation(
    *,
    model: nn.Module | None = None,
    images: Images = TEST,
    seed: int = 0,
    examples: int | None = None,
    **options: Any,
) -> Evaluation:
    return EachAlone(Engine(model or Reader(), images, seed, **options), examples)


def hits(entry: Entry) -> list[bool]:
    return list(map(bool, entry.hits))


ATTACKED: list[
    tuple[list[int], list[int]]
] = []  # labels of the images that an attack was given, and its draws


@hyperparameters
class Nudge:
    """One grey level more on the first pixel of images whose label is a multiple of `of`; `push` moves pixels by
    so much beyond that, `value` sets one.
    """

    eps: Eps = 1 / 255
    norm: Norm = "linf"
    of: int = 1
    push: float = 0.0
    value: float | None = None
    step_size: float | None = None

    @property
    def threat(self) -> ThreatModel:
        """The budget."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Move one pixel."""
        ATTACKED.append((y.tolist(), torch.randint(2**31, (2,), generator=rng).tolist()))
        moved = x.clone()
        moved[y % self.of == 0, 0, 0, 0] += 1 / 255 + self.push
        if self.value is not None:
            moved[:, 0, 1, 1] = self.value
        return moved


def block(**parameters: Any) -> dict[str, Any]:
    return {"kind": f"{__name__}:Nudge", **parameters}


@pytest.fixture(autouse=True)
def _forget() -> None:
    ATTACKED.clear()


# Stored hits


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packed_hits_come_back_as_they_were(values: list[bool]) -> None:
    entry = Entry("clean_accuracy", "none", "test", np.array(values))
    stored = json.loads(json.dumps(entry.to_json()))
    assert unpack(stored).tolist() == values
    assert (stored["hits"], stored["total"]) == (sum(values), len(values))


def test_bits_are_packed_from_the_lowest() -> None:
    entry = Entry(
        "asr", "badnets", "triggered", np.array([True, False, True] + [False] * 6), "linf", 0.5, "eps"
    )
    assert entry.to_json() == {
        "metric": "asr",
        "attack": "badnets",
        "norm": "linf",
        "eps": 0.5,
        "curve": "eps",
        "steps": 0,
        "subset": "triggered",
        "hits": 2,
        "total": 9,
        "bits": base64.b64encode(bytes([0b101, 0])).decode(),
    }


# Accuracy, clean and under attack


def test_clean_accuracy_counts_the_images_that_the_model_gets_right() -> None:
    found = evaluation()
    found.clean_accuracy()
    (entry,) = found.entries
    assert (entry.metric, entry.attack, entry.subset) == ("clean_accuracy", "none", "test")
    assert hits(entry) == CLEAN


def test_moved_pictures_are_scored_with_the_same_labels() -> None:
    found = evaluation()
    found.moved("do_style", pictures([0] * 10).numpy())
    assert hits(found.entries[0]) == [label == 0 for label in TRUE]
    assert found.entries[0].attack == "do_style"


def test_an_attack_counts_where_the_model_was_right_and_no_longer_is() -> None:
    found = evaluation()
    found.robust({"even": block(of=2)}, silent)
    entry = found.entries[0]
    assert hits(entry) == [right and label % 2 == 1 for right, label in zip(CLEAN, TRUE, strict=True)]
    assert (entry.metric, entry.attack, entry.norm, entry.eps) == ("robust_accuracy", "even", "linf", 1 / 255)
    assert entry.curve == ""


def test_only_images_that_the_model_gets_right_are_attacked() -> None:
    found = evaluation()
    found.robust({"all": block()}, silent)
    ((labels, _),) = ATTACKED
    assert labels == [label for right, label in zip(CLEAN, TRUE, strict=True) if right]


def test_the_worst_case_is_what_stands_under_every_attack_of_one_threat_model() -> None:
    found = evaluation()
    found.robust(
        {
            "even": block(of=2),
            "third": block(of=3),
            "larger": block(of=5, eps=0.1),
            "other": block(norm="l2", of=1),
        },
        silent,
    )
    worst = {(entry.norm, entry.eps): hits(entry) for entry in found.entries if entry.attack == "worst_case"}
    assert worst == {
        ("linf", 1 / 255): [r and y % 2 > 0 and y % 3 > 0 for r, y in zip(CLEAN, TRUE, strict=True)],
        ("linf", 0.1): [r and y % 5 > 0 for r, y in zip(CLEAN, TRUE, strict=True)],
        ("l2", 1 / 255): [False] * 10,
    }


def test_every_attack_and_seed_has_draws_of_its_own_that_no_other_attack_moves() -> None:
    evaluation().robust({"a": block(), "b": block()}, silent)
    evaluation().robust({"b": block()}, silent)
    evaluation(seed=1).robust({"b": block()}, silent)
    a, b, b_alone, b_of_another_seed = (draws for _, draws in ATTACKED)
    assert b == b_alone and b != a and b != b_of_another_seed


def test_large_splits_are_attacked_in_batches_with_draws_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "batch_size", lambda x: 3)
    found = evaluation()
    found.robust({"even": block(of=2)}, silent)
    assert [len(labels) for labels, _ in ATTACKED] == [3, 3, 2]
    assert len({tuple(draws) for _, draws in ATTACKED}) == 3
    assert hits(found.entries[0]) == [
        right and label % 2 == 1 for right, label in zip(CLEAN, TRUE, strict=True)
    ]


def test_a_model_that_is_wrong_everywhere_has_nothing_left_to_attack() -> None:
    wrong = evaluation(images=Images(pictures([0, 1]), torch.tensor([1, 0])))
    wrong.robust({"all": block()}, silent)
    assert [hits(entry) for entry in wrong.entries] == [[False, False]] * 2


@pytest.mark.parametrize(
    "cheat",
    [
        {"push": 1 / 255},
        {"norm": "l2", "push": 1 / 255},
        {"eps": 0.9, "value": 1.01},
        {"eps": 0.9, "value": -0.01},
        {"eps": 0.9, "value": float("nan")},
    ],
    ids=["outside the cube", "outside the ball", "above one", "below zero", "not a number"],
)
def test_an_attack_that_leaves_its_budget_is_an_error_that_names_it(cheat: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"attack cheat left its budget \(l.*, eps .*\) on 8 of 8 images"):
        evaluation().robust({"honest": block(), "cheat": block(**cheat)}, silent)


def test_a_transfer_is_judged_by_the_stored_images_and_the_budget_they_were_crafted_under() -> None:
    x = TEST.x.float() / 255
    stored = x.clone()
    stored[:4, 0, 0, 0] += 1 / 255
    transfer = {"kind": "transfer", "attack": "nudge", "crafted_by": block()}
    found = evaluation(stored={"transfer": stored})
    found.robust({"transfer": transfer}, silent)
    assert hits(found.entries[0]) == [False] * 4 + CLEAN[4:]
    assert (found.entries[0].norm, found.entries[0].eps) == ("linf", 1 / 255)
    with pytest.raises(UserError, match="attack transfer left its budget"):
        evaluation(stored={"transfer": x + 0.1}).robust({"transfer": transfer}, silent)


# Curves


def test_a_curve_at_radius_zero_is_the_clean_accuracy() -> None:
    found = evaluation()
    found.curve("nudge", block(), "eps", [0, 1 / 255], silent)
    zero, one = found.entries
    assert hits(zero) == CLEAN and hits(one) == [False] * 10
    assert [entry.eps for entry in found.entries] == [0, 1 / 255] and zero.curve == one.curve == "eps"


@pytest.mark.parametrize("norm", DUAL)
def test_the_curve_of_a_linear_model_counts_the_images_further_away_than_the_radius(norm: Norm) -> None:
    model, x, _ = linear_problem()
    x = (x * 255).round().to(torch.uint8)
    margins = model.margin(x.float() / 255)
    radius = (margins.abs() / model.w.norm(p=DUAL[norm])).detach().numpy()
    found = evaluation(model=model, images=Images(x, (margins > 0).long()))
    radii = [0, 0.01, 0.03, 0.1, 2.0]
    found.curve("fgsm", {"kind": "fgsm", "eps": 0.1, "norm": norm}, "eps", radii, silent)
    for entry, eps in zip(found.entries, radii, strict=True):
        clear = np.abs(radius - eps) > 1e-4
        if eps < 1:  # far away the box is in the way of an exact answer
            assert np.array_equal(entry.hits[clear], (radius > eps)[clear])
    for entry, larger in zip(found.entries, found.entries[1:], strict=False):
        assert not (larger.hits & ~entry.hits).any()
    assert found.entries[-1].hits.sum() == 0 or norm == "l1"  # a radius of 2 is not far for a sum of pixels


def test_a_stated_step_size_grows_with_the_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float | None] = []
    monkeypatch.setattr(
        Nudge, "__call__", lambda self, model, x, y, *, rng: taken.append(self.step_size) or x
    )
    evaluation().curve("nudge", block(eps=0.1, step_size=0.02), "eps", [0.05, 0.2], silent)
    evaluation().curve("nudge", block(eps=0.1), "eps", [0.05], silent)
    assert taken == [pytest.approx(0.01), pytest.approx(0.04), None]


# The backdoor


def test_success_is_counted_on_images_of_other_classes_alone() -> None:
    says = [2, 2, 2, 2, 4, 0, 2, 1, 2, 4]  # under the trigger: the target, the truth, or neither
    triggered = Images(pictures(says), torch.full((10,), 2))
    found = evaluation()
    subsets = found.backdoor("badnets", triggered)
    others = [i for i, label in enumerate(TRUE) if label != 2]
    by_metric = {entry.metric: entry for entry in found.entries}
    assert hits(by_metric["asr"]) == [says[i] == 2 for i in others]
    assert hits(by_metric["triggered_accuracy"]) == [says[i] == TRUE[i] for i in others]
    assert by_metric["asr"].attack == by_metric["triggered_accuracy"].attack == "badnets"
    assert hits(by_metric["target_recall"]) == [CLEAN[2]] and by_metric["target_recall"].attack == "none"
    assert subsets["triggered"].tolist() == [TRUE[i] for i in others] and subsets["target"].tolist() == [2]
    assert {entry.subset for entry in found.entries} == subsets.keys()


def test_a_model_that_ignores_the_trigger_is_hit_at_its_ordinary_error_rate() -> None:
    found = evaluation()
    found.backdoor("badnets", Images(TEST.x, torch.full((10,), 0)))  # the stamp changes nothing
    asr, triggered, recall = found.entries
    others = [i for i, label in enumerate(TRUE) if label != 0]
    assert hits(asr) == [SAYS[i] == 0 for i in others] and asr.hits.sum() == 1
    assert hits(triggered) == [CLEAN[i] for i in others]
    assert hits(recall) == [True, False]


def test_all_to_all_hopes_for_another_label_everywhere_and_has_no_target() -> None:
    hoped = (TEST.y + 1) % LABELS
    says = [1, 1, 3, 0, 5, 0, 2, 2, 0, 3]
    found = evaluation()
    subsets = found.backdoor("badnets", Images(pictures(says), hoped))
    assert [entry.metric for entry in found.entries] == ["asr", "triggered_accuracy"]
    assert hits(found.entries[0]) == [a == b for a, b in zip(says, hoped.tolist(), strict=True)]
    assert subsets.keys() == {"triggered"} and len(subsets["triggered"]) == 10


def test_images_whose_hoped_label_is_the_true_one_are_no_victims_and_the_target_is_still_known() -> None:
    source = TEST.y == 1  # only images of class 1 are attacked, towards class 3
    hoped = torch.where(source, torch.full_like(TEST.y, 3), TEST.y)
    found = evaluation()
    subsets = found.backdoor("tact", Images(pictures([3] * 10), hoped))
    asr = found.entries[0]
    assert asr.metric == "asr" and hits(asr) == [True] * int(source.sum())
    recall = next(entry for entry in found.entries if entry.metric == "target_recall")
    assert hits(recall) == [CLEAN[i] for i in range(10) if TRUE[i] == 3]
    assert subsets["triggered"].tolist() == [1] * int(source.sum())


def test_a_look_alike_of_the_trigger_is_scored_on_every_test_image() -> None:
    says = [TRUE[0], TRUE[1], *[(label + 1) % LABELS for label in TRUE[2:]]]
    found = evaluation()
    found.backdoor("wanet", Images(pictures([0] * 10), torch.full((10,), 0)), pictures(says))
    crossed = next(entry for entry in found.entries if entry.metric == "cross_accuracy")
    assert hits(crossed) == [True, True] + [False] * 8
    assert (crossed.attack, crossed.subset) == ("wanet", "test")


def test_only_the_first_examples_are_attacked_and_form_a_subset_of_their_own() -> None:
    found = evaluation(examples=7)
    found.clean_accuracy()
    found.robust({"odd": block(of=2)}, silent)
    found.curve("odd", block(of=2), "eps", [0, 1 / 255], silent)
    stands = [right and label % 2 == 1 for right, label in zip(CLEAN, TRUE, strict=True)]
    assert (
        [(entry.subset, hits(entry)) for entry in found.entries]
        == [
            ("test", CLEAN),
            ("attacked", stands[:7]),
            ("attacked", stands[:7]),  # the worst case
            ("attacked", CLEAN[:7]),
            ("attacked", stands[:7]),
        ]
    )
    assert ATTACKED[0][0] == TRUE[:6]


# Measures of a trace

MASK = np.array([True] * 4 + [False] * 6)


def test_a_twin_that_tells_poison_from_clean_has_auroc_one() -> None:
    loss = np.array([0.0, 0.1, 0.2, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = poison_measures({"biased_loss": loss}, MASK)
    assert found == {
        "biased_auroc": 1.0,
        "biased_loss_poisoned": pytest.approx(0.15),
        "biased_loss_clean": 3.5,
    }
    assert poison_measures({"biased_loss": -loss}, MASK)["biased_auroc"] == 0


def test_a_twin_that_cannot_tell_has_auroc_one_half() -> None:
    assert poison_measures({"biased_loss": np.ones(10)}, MASK)["biased_auroc"] == 0.5
    noise = np.random.default_rng(0).random(4000)
    auroc = poison_measures({"biased_loss": noise}, np.arange(4000) % 4 == 0)["biased_auroc"]
    assert auroc == pytest.approx(0.5, abs=0.04)


def test_the_ratio_of_first_weights_is_poisoned_over_clean() -> None:
    weight = np.where(MASK, 0.1, 0.5)
    assert poison_measures({"first_weight": weight}, MASK) == {"first_weight_ratio": pytest.approx(0.2)}
    assert poison_measures({}, MASK) == {}


# Through the steps that a workflow calls

SPEC = {
    "model": {"kind": "small_cnn", "widths": [3], "hidden": 6, "until": 2},
    "training": {"epochs": 2, "batch_size": 8},
    "defense": {"kind": "cbd", "biased_epochs": 1},
}
FGSM = {"kind": "fgsm", "eps": 0.1}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A poisoned set, a model trained on it, and images crafted on that model."""
    folder = tmp_path_factory.mktemp("run")
    test = tiny_images(12, seed=2)
    moved = (255 - test.x).numpy()
    paths = {
        "train": write_images(folder / "train.npz", tiny_images()),
        "val": write_images(folder / "val.npz", tiny_images(9, seed=1)),
        "test": write_images(folder / "test.npz", test, x_do_style=moved, style_do=test.y.numpy()),
        "poisoned": folder / "poisoned.npz",
        "model": folder / "model",
        "crafted": folder / "fgsm.npz",
    }
    poison = {"poison": {"kind": "badnets", "rate": 0.2, "target": 1, "trigger": {"size": 1}}}
    poison_step.run(train=paths["train"], test=paths["test"], spec=poison, seed=0, out=paths["poisoned"])
    run = {"dataset": "d", "poison": "badnets", "model": "m", "defense": "cbd", "seed": 0}
    train_step.run(
        train=paths["poisoned"],
        val=paths["val"],
        spec=SPEC,
        run=run,
        out=paths["model"],
        device=CPU,
        scratch=folder / "scratch",
    )
    attack_step.run(
        model=paths["model"],
        images=paths["test"],
        spec=FGSM,
        name="fgsm",
        seed=0,
        out=paths["crafted"],
        device=CPU,
    )
    return paths


def scored(stored: dict[str, Path], out: Path, **options: Any) -> dict[str, Any]:
    spec = {
        "attacks": {"fgsm": FGSM, "borrowed": {"kind": "transfer", "attack": "fgsm", "crafted_by": FGSM}},
        "curves": [{"name": "fgsm", "axis": "eps", "values": [0, 0.1], "attack": FGSM}],
        "examples": None,
    }
    evaluate_step.run(
        model=stored["model"],
        test=stored["test"],
        spec=spec | options.pop("spec", {}),
        out=out,
        device=CPU,
        stored={"borrowed": stored["crafted"]},
        **options,
    )
    found: dict[str, Any] = read_json(out)
    return found


def test_crafted_images_are_stored_with_originals_labels_and_predictions(stored: dict[str, Path]) -> None:
    found, test = read_npz(stored["crafted"]), read_npz(stored["test"])
    assert found["x_adv"].dtype == np.float32 and found["x_adv"].shape == (12, 1, 4, 4)
    assert np.array_equal(found["x"], test["x"]) and np.array_equal(found["y"], test["y"])
    moved = np.abs(found["x_adv"] - test["x"].astype(np.float32) / 255)
    assert 0 < moved.max() <= 0.1 + 1e-6 and found["x_adv"].min() >= 0 and found["x_adv"].max() <= 1
    from deconfound.steps.weights import load_model

    model = load_model(stored["model"], CPU)
    assert np.array_equal(found["before"], predict(model, torch.from_numpy(test["x"])).argmax(1))
    assert np.array_equal(found["after"], predict(model, torch.from_numpy(found["x_adv"])).argmax(1))


def test_an_evaluation_holds_every_metric_with_its_bits_and_subset(
    stored: dict[str, Path], tmp_path: Path
) -> None:
    found = scored(stored, tmp_path / "evaluation.json", poisoned=stored["poisoned"])
    labels = {
        name: np.frombuffer(base64.b64decode(text), "<u2").tolist() for name, text in found["subsets"].items()
    }
    truth = read_npz(stored["test"])["y"].tolist()
    assert labels == {
        "test": truth,
        "attacked": truth,
        "triggered": [y for y in truth if y != 1],
        "target": [1] * 4,
    }
    entries = {(e["metric"], e["attack"], e["curve"], e["eps"]): unpack(e) for e in found["entries"]}
    assert entries.keys() == {
        ("clean_accuracy", "none", "", 0),
        ("clean_accuracy", "do_style", "", 0),
        ("robust_accuracy", "fgsm", "", 0.1),
        ("robust_accuracy", "borrowed", "", 0.1),
        ("robust_accuracy", "worst_case", "", 0.1),
        ("robust_accuracy", "fgsm", "eps", 0),
        ("robust_accuracy", "fgsm", "eps", 0.1),
        ("asr", "badnets", "", 0),
        ("triggered_accuracy", "badnets", "", 0),
        ("target_recall", "none", "", 0),
    }
    for entry in found["entries"]:
        assert len(unpack(entry)) == len(labels[entry["subset"]]) and unpack(entry).sum() == entry["hits"]
    crafted = read_npz(stored["crafted"])
    clean, after = crafted["before"] == crafted["y"], crafted["after"] == crafted["y"]
    assert np.array_equal(entries["clean_accuracy", "none", "", 0], clean)
    for key in (("fgsm", ""), ("borrowed", ""), ("worst_case", ""), ("fgsm", "eps")):
        assert np.array_equal(entries["robust_accuracy", *key, 0.1], clean & after)
    assert found["measures"].keys() == {
        "training_cost",
        "biased_auroc",
        "biased_loss_poisoned",
        "biased_loss_clean",
        "first_weight_ratio",
    }
    loss, mask = read_npz(stored["model"] / "trace.npz")["biased_loss"], read_npz(stored["poisoned"])["mask"]
    assert found["measures"]["biased_loss_poisoned"] == pytest.approx(np.median(loss[mask]))
    assert found["provenance"]["inputs"].keys() == {"model", "parts", "test", "borrowed", "poisoned"}


def test_an_evaluation_repeats_to_the_byte(stored: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        scored(stored, tmp_path / name, poisoned=stored["poisoned"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_number_of_examples_slices_what_is_attacked_and_nothing_else(
    stored: dict[str, Path], tmp_path: Path
) -> None:
    found = scored(stored, tmp_path / "e.json", poisoned=stored["poisoned"], spec={"examples": 5})
    whole = scored(stored, tmp_path / "w.json", poisoned=stored["poisoned"])
    truth = read_npz(stored["test"])["y"]
    attacked = base64.b64decode(found["subsets"]["attacked"])
    assert np.frombuffer(attacked, "<u2").tolist() == truth[:5].tolist()
    for part, full in zip(found["entries"], whole["entries"], strict=True):
        robust = part["metric"] == "robust_accuracy"
        assert part["subset"] == ("attacked" if robust else full["subset"])
        assert np.array_equal(unpack(part), unpack(full)[:5] if robust else unpack(full))


def test_without_a_poison_there_is_no_backdoor_to_score(stored: dict[str, Path], tmp_path: Path) -> None:
    found = scored(stored, tmp_path / "e.json")
    assert found["subsets"].keys() == {"test", "attacked"} and found["measures"].keys() == {"training_cost"}
    assert {entry["metric"] for entry in found["entries"]} == {"clean_accuracy", "robust_accuracy"}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_auroc_is_that_of_scikit_learn_ties_included(pairs: list[tuple[int, bool]]) -> None:
    score = np.array([float(value) for value, _ in pairs])
    positive = np.array([flag for _, flag in pairs])
    assume(positive.any() and not positive.all())
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))


# The cascade


def test_an_attack_sees_only_what_the_attacks_before_it_left_standing() -> None:
    found = Evaluation(Engine(Reader(), TEST, 0))
    found.robust({"even": block(of=2), "third": block(of=3), "all": block()}, silent)
    right = [label for ok, label in zip(CLEAN, TRUE, strict=True) if ok]
    assert [labels for labels, _ in ATTACKED] == [
        right,
        [label for label in right if label % 2],
        [label for label in right if label % 2 and label % 3],
    ]
    assert [(cost.attack, cost.attacked, cost.broken) for cost in found.costs] == [
        ("even", 8, 3),
        ("third", 5, 2),
        ("all", 3, 3),
    ]
    assert [(entry.attack, hits(entry)) for entry in found.entries] == [("worst_case", [False] * 10)]


def test_an_attack_measured_alone_sees_everything_and_still_counts_in_the_worst_case() -> None:
    found = Evaluation(Engine(Reader(), TEST, 0))
    found.robust({"even": block(of=2), "third": block(of=3)}, silent, alone=["third"])
    assert [cost.attacked for cost in found.costs] == [8, 8]
    by_name = {entry.attack: hits(entry) for entry in found.entries}
    assert by_name == {
        "third": [ok and y % 3 > 0 for ok, y in zip(CLEAN, TRUE, strict=True)],
        "worst_case": [ok and y % 3 > 0 and y % 2 > 0 for ok, y in zip(CLEAN, TRUE, strict=True)],
    }


def test_the_worst_case_is_the_same_whether_attacks_are_measured_alone_or_in_a_row() -> None:
    model, x, _ = linear_problem()
    x = (x * 255).round().to(torch.uint8)
    images = Images(x, (model.margin(x.float() / 255) > 0).long())
    attacks = {"fgsm": {"kind": "fgsm", "eps": 0.02}, "pgd": {"kind": "pgd", "eps": 0.02}}
    worst = []
    for alone in ([], ["fgsm"], ["fgsm", "pgd"]):
        found = Evaluation(Engine(model, images, 0))
        found.robust(attacks, silent, alone=alone)
        worst.append(hits(found.entries[-1]))
    assert worst[0] == worst[1] == worst[2] and 0 < sum(worst[0]) < 64


def test_a_curve_over_steps_takes_the_step_size_that_the_attack_takes_by_default() -> None:
    model, x, _ = linear_problem()
    x = (x * 255).round().to(torch.uint8)
    found = evaluation(model=model, images=Images(x, (model.margin(x.float() / 255) > 0).long()))
    block = {"kind": "bim", "eps": 0.03, "steps": 7, "step_size": 0.001}
    found.curve("bim", block, "steps", [1, 3, 30], silent)
    assert [(e.curve, e.steps, e.eps) for e in found.entries] == [("steps", n, 0.03) for n in (1, 3, 30)]
    assert hits(found.entries[0]) == hits(
        found.entries[2]
    )  # eps / steps reaches the edge with any number of steps


def causal(stored: dict[str, Path], folder: Path, properties: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of a CausalAdv run under the adaptive attack, with properties."""
    ascent = {"threat": {"eps": 0.1}, "step_size": 0.05, "steps": 1}
    defense = {"kind": "causaladv", "ascent": ascent, "validation": "track"}
    run = {"dataset": "d", "poison": "clean", "model": "m", "defense": "c", "seed": 0}
    shared: dict[str, Any] = {"device": CPU, "scratch": folder / "scratch"}
    train_step.run(
        train=stored["train"],
        val=stored["val"],
        spec=SPEC | {"defense": defense},
        run=run,
        out=folder / "model",
        **shared,
    )
    adaptive = {"kind": "adaptive", "eps": 0.1, "steps": 2, "weights": [0, 0.5]}
    spec = {"attacks": {"adaptive": adaptive}, "curves": [], "examples": None, "properties": properties}
    evaluate_step.run(
        model=folder / "model",
        test=stored["test"],
        train=stored["train"],
        spec=spec,
        out=folder / "evaluation.json",
        **shared,
    )
    found: dict[str, Any] = read_json(folder / "evaluation.json")
    return found


def test_the_adaptive_attack_is_told_the_parts_that_a_defense_left_beside_its_model(
    stored: dict[str, Path], tmp_path: Path
) -> None:
    found = causal(stored, tmp_path, {})
    assert [(cost["attack"], cost["member"]) for cost in found["costs"]] == [
        ("adaptive", "w=0"),
        ("adaptive", "w=0.5"),
    ]
    assert all(cost["backward"] for cost in found["costs"] if cost["attacked"])
    parts = read_weights(tmp_path / "model" / "parts.safetensors")
    assert {"basis", "anchor"} < set(parts) and found["values"] == []
    # from the history, since the run tracked it, and what its training cost
    assert found["measures"].keys() == {"robust_overfitting", "training_cost"}


def test_properties_are_values_per_image_and_numbers_per_run_without_what_was_not_there_to_measure(
    stored: dict[str, Path], tmp_path: Path
) -> None:
    attack = {"eps": 0.1, "steps": 1}
    found = causal(
        stored,
        tmp_path,
        {
            "alignment": {"kind": "alignment", "attack": attack, "epochs": 1},
            "information": {
                "kind": "mutual_information",
                "attack": attack,
                "unseen": attack,
                "fewest": 13,  # more than there are images: no Omega is large enough
                "estimator": {"hidden": 4, "widths": [2, 2], "epochs": 1, "batch_size": 8},
            },
        },
    )
    assert [(value["name"], value["subset"]) for value in found["values"]] == [
        ("style_kl", "test"),
        ("output_kl", "test"),
    ]
    (values, _) = (np.frombuffer(base64.b64decode(value["values"]), "<f4") for value in found["values"])
    assert len(values) == 12 and (values >= -1e-6).all()
    assert {"style_gap", "mi_clean_minus_adversarial"} < set(found["measures"])
    assert not any("auc" in name or name.endswith("_gap_frozen") for name in found["measures"])
    assert found["provenance"]["inputs"].keys() == {"model", "parts", "test", "train"}


def test_properties_without_a_training_set_are_refused(stored: dict[str, Path], tmp_path: Path) -> None:
    block = {"kind": "vulnerability", "attack": {"eps": 0.1, "steps": 1}}
    with pytest.raises(ConfigError, match="--train: properties need the training set"):
        scored(stored, tmp_path / "out.json", spec={"properties": {"classes": block}})


def test_overfitting_is_the_best_minus_the_last_robust_accuracy_on_val() -> None:
    records = [{"val_robust": value} for value in (0.25, 0.75, 0.5)]
    assert training_measures({"model": records, "warmup": [{"val_robust": 1.0}]}) == {
        "robust_overfitting": 0.25
    }
    assert training_measures({"model": [{"loss": 1.0}]}) == {} == training_measures({})
