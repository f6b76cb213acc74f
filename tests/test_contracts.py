"""What every entry of every table promises. A new method adds one line to EXAMPLES and is held to all of it."""

import dataclasses
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interpretation_cases import case
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Generator

from deconfound.attacks import ATTACKS, EXPLANATION_ATTACKS
from deconfound.attributions import ATTRIBUTIONS
from deconfound.data import DATASETS
from deconfound.defenses import DEFENSES
from deconfound.defenses.workbench import Defended
from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Evidence, ExampleDetector, InputDetector, ModelScan
from deconfound.errors import ConfigError
from deconfound.evaluation import at_eps
from deconfound.interpretations import INTERPRETATIONS
from deconfound.models import MODELS
from deconfound.models.classifier import Classifier, predict
from deconfound.models.small_cnn import SmallCNN
from deconfound.poisons import POISONS
from deconfound.poisons.workshop import Workshop
from deconfound.properties import PROPERTIES
from deconfound.recipe import Recipe
from deconfound.registry import build, resolve
from deconfound.rng import generator, global_seed
from deconfound.training import Trainer
from deconfound.types import Images, Source

TABLES = {
    "attacks": ATTACKS,
    "explanation_attacks": EXPLANATION_ATTACKS,
    "attributions": ATTRIBUTIONS,
    "datasets": DATASETS,
    "defenses": DEFENSES,
    "detectors": DETECTORS,
    "models": MODELS,
    "poisons": POISONS,
    "properties": PROPERTIES,
    "interpretations": INTERPRETATIONS,
}
FGSM = {"kind": "fgsm", "eps": 0.1}
MAPS = {"slope": {"kind": "saliency"}, "cam": {"kind": "grad_cam"}}
ASCENT = {"threat": {"norm": "linf", "eps": "8/255"}, "step_size": 0.01, "steps": 2}
ESTIMATOR = {"hidden": 6, "widths": [2, 3], "epochs": 2, "batch_size": 8, "training": "max_only"}
# Tiny settings of every kind, that differ from the defaults; nothing here needs a network.
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "attacks": {
        "fgsm": {"eps": 0.1, "norm": "l2"},
        "bim": {"eps": 0.1, "norm": "l1", "steps": 3, "score": "dlr"},
        "mim": {"eps": 0.1, "steps": 3, "momentum": 0.5, "score": "kl"},
        "adaptive": {"eps": 0.1, "steps": 3, "weights": [0, 0.5], "score": "margin", "step_size": 0.05},
        "eot": {"attack": {"kind": "pgd", "eps": 0.1, "steps": 2}, "samples": 2},
        "apgd": {"eps": 0.1, "steps": 5, "score": "dlr", "restarts": 2},
        "apgd_targeted": {"eps": 0.1, "norm": "l2", "steps": 4, "targets": 2},
        "autoattack": {"eps": 0.1, "version": "plus", "steps": 3, "queries": 20},
        "square": {"eps": 0.1, "norm": "l1", "queries": 30, "p_init": 0.5, "restarts": 2, "score": "dlr"},
        "ti_dim": {"eps": 0.1, "steps": 3, "probability": 0.6, "resize": 0.8, "kernel": 3, "sigma": 1},
        "wasserstein": {"eps": 0.1, "steps": 3, "window": 3, "score": "margin"},
        "pgd": {"eps": 0.1, "steps": 3, "restarts": 2, "score": "margin", "step_size": 0.05},
        "fab": {"eps": 0.2, "norm": "l2", "steps": 4, "restarts": 2, "targets": 1, "beta": 0.8},
        "cw_l2": {"eps": 0.5, "steps": 30, "searches": 5, "step_size": 0.1, "initial_c": 0.01},
        "ddn": {"eps": 0.5, "steps": 20, "radius": 0.5, "step_size": 0.5, "gamma": 0.1},
        "deepfool": {"eps": 0.1, "norm": "linf", "steps": 10, "overshoot": 0.05, "candidates": 1},
        "transfer": {"attack": "pgd", "model": "cnn", "crafted_by": {"kind": "fgsm", "eps": 0.1}},
        "jsma": {"eps": 0.5, "theta": 0.8, "aim": "next", "candidates": 5},
        "universal": {"eps": 0.1, "images": 5, "steps": 4, "step_size": 0.03, "cap": 8},
        "feature_adversary": {"eps": 0.1, "norm": "l2", "steps": 4, "guide": "class_mean", "restarts": 2},
        "attention": {"eps": 0.1, "norm": "l2", "steps": 3, "weight": 0.5},
        "substitute": {
            "eps": 0.1,
            "steps": 3,
            "seeds": 5,
            "rounds": 1,
            "network": "cnn",
            "width": 3,
            "fits": 4,
        },
        "patch_ranking": {
            "eps": 0.5,
            "grid": 2,
            "samples": 10,
            "baseline": "blur",
            "fills": ["white", "inverse"],
        },
    },
    "explanation_attacks": {
        "fragile": {"eps": 0.1, "steps": 4, "map": "integrated_gradients", "path_steps": 3, "top": 0.2},
    },
    "attributions": {
        "saliency": {"scalar": "margin"},
        "input_x_gradient": {"scalar": "margin", "chunk": 3},
        "smooth_grad": {"samples": 2, "sigma": 0.1},
        "integrated_gradients": {"steps": 3, "baseline": "mean"},
        "grad_cam": {"layer": "body.0", "positive": False},
        "lrp": {"epsilon": 1e-6, "gamma": 0.25},
        "deep_lift": {"baseline": {"kind": "blur", "sigma": 1}},
        "guided_backprop": {"chunk": 4},
        "occlusion": {"window": 2, "stride": 1, "baseline": "blur"},
        "shapley": {"grid": 2, "baseline": {"kind": "uniform", "draws": 2}},
        "kernel_shap": {"samples": 20, "grid": 3},
        "lime": {"samples": 20, "grid": 2, "width": 0.5, "ridge": 0.1},
    },
    "datasets": {
        "digits": {"test": 100, "seed": 3},
        "scenes": {"classes": 3, "train": 12, "test": 9, "clutter": 1},
        "torchvision": {"name": "mnist", "size": 8},
        "image_folder": {"path": "pictures", "test": 0.5, "size": [4, 5], "channels": 1},
    },
    "defenses": {
        "input_gradient": {"weight": 0.5},
        "jacobian": {"weight": 0.1, "projections": 2},
        "saliency_alignment": {"weight": 0.5, "centred": True, "toward": "other"},
        "ig_norm": {"variant": "sum_norm", "weight": 0.2, "ascent": ASCENT, "points": 2, "attack_points": 1},
        "interpretability_aware": {"weight": 0.1, "classes": "label", "ascent": ASCENT},
        "distillation": {"temperature": 5, "scaled": False, "teacher_epochs": 1},
        "robust_features": {"ascent": ASCENT, "epochs": 1, "begin": "noise", "steps": 2, "step_size": 0.2},
        "non_robust_features": {"target": "next", "labels": "own", "ascent": ASCENT, "epochs": 1},
        "manipulation": {"aim": "top_k", "map": "input_x_gradient", "weight": 2, "top": 0.2, "epochs": 2},
        "standard": {},
        "adversarial_training": {"ascent": ASCENT, "clean": 0.5},
        "trades": {"ascent": ASCENT, "beta": 2},
        "mart": {"ascent": ASCENT, "weight": 3},
        "awp": {"ascent": ASCENT, "base": "trades", "trades_beta": 3, "gamma": 0.02},
        "help": {"ascent": ASCENT, "standard_epochs": 1, "standard_lr": 0.02, "help_weight": 0.5},
        "causaladv": {
            "ascent": ASCENT,
            "variant": "t",
            "alpha": 0.5,
            "basis": "sequential",
            "detach_target": True,
        },
        "adml": {"ascent": ASCENT, "base": "help", "tau": "one", "floor": 0, "standard_epochs": 1},
        "namid": {"ascent": ASCENT, "base": "mart", "alpha": 2, "estimator": ESTIMATOR, "detach_clean": True},
        "wmim": {"ascent": ASCENT, "weight": 0.2, "estimator": ESTIMATOR},
        "abl": {
            "isolation": "flooding",
            "isolation_epochs": 1,
            "isolate": 0.2,
            "finetune_epochs": 1,
            "forget": "chance",
        },
        "dbd": {
            "contrastive_epochs": 1,
            "contrastive_batch": 8,
            "warmup_epochs": 1,
            "keep": 0.4,
            "finish_epochs": 1,
        },
        "fine_tuning": {"epochs": 2},
        "fine_pruning": {"epochs": 2, "tolerance": 0.5},
        "nad": {"epochs": 2, "teacher_epochs": 1},
        "mode_connectivity": {"epochs": 2, "endpoint_epochs": 2, "points": 3},
        "anp": {"iterations": 3},
        "i_bau": {"rounds": 2},
        "clp": {"linear": True, "u": 0.5},
        "filtered": {"detector": {"kind": "spectral_signatures", "centred": False}},
        "neural_cleanse": {
            "scan": {"threshold": 0.1, "inversion": {"passes": 2, "success": 0.1, "batch_size": 4}},
            "share": 0.5,
        },
        "cbd": {"biased_epochs": 1, "mi_weight": 0.5, "compression": 0.1, "shuffle": "twin"},
    },
    "detectors": {
        "activation_clustering": {"components": 3, "rule": "smaller", "suspect": "unfamiliar"},
        "spectral_signatures": {"centred": False, "poisoned": 0.2},
        "strip": {"overlays": 4, "blend": "average"},
        "scale_up": {"multipliers": [2, 3], "standardise": "class"},
        "neural_cleanse": {
            "inversion": {
                "passes": 2,
                "batch_size": 4,
                "tabor": {"restored": 0.5, "alone": 0.5, "smooth": 0.1},
            },
            "threshold": 1,
        },
        "lowest_loss": {"fraction": 0.2},
        "influence": {"form": "per_gradient", "toward": "itself", "tail": "both"},
        "stimulation": {"images": 7, "layers": 1, "multiples": [2], "threshold": 0.5},
        "confidence": {"temperature": 2},
        "feature_squeezing": {"bits": 3, "search": 3, "strength": 20},
        "leave_one_out": {"block": 3, "reference": "zero", "spread": "mad"},
        "ml_loo": {"layers": 1, "spread": "std", "c": 0.1},
        "lid": {"reference": 20, "neighbours": 5, "attacks": ["crafted"]},
        "mahalanobis": {"examples": 30, "ridge": 1e-3, "magnitude": 0.01},
        "signature": {"steps": 3, "c": 0.1},
        "witnesses": {"selective": 0.2, "strengthen": 3, "weaken": 0.5},
    },
    "properties": {
        "alignment": {"attack": {"eps": 0.1, "steps": 2}, "epochs": 2, "batch_size": 8},
        "vulnerability": {"attack": {"eps": 0.1, "steps": 2}},
        "mutual_information": {
            "attack": {"eps": 0.1, "steps": 2},
            "unseen": {"eps": 0.1, "steps": 2, "score": "margin"},
            "estimator": ESTIMATOR,
            "fewest": 1,
        },
    },
    "interpretations": {
        "attribution_shift": {
            "attack": FGSM,
            "attributions": MAPS,
            "targets": ["pred"],
            "examples": 9,
            "gallery": 2,
        },
        "map_trust": {
            "attributions": MAPS,
            "examples": 5,
            "points": 5,
            "orders": 2,
            "samples": 4,
            "neighbours": 2,
        },
        "explanation_attack": {
            "explanation_attack": {"kind": "fragile", "eps": 0.1, "steps": 3},
            "attributions": MAPS,
            "attacks": {"aoa": {"kind": "attention", "eps": 0.1, "steps": 2}},
            "examples": 6,
            "gallery": 2,
        },
        "adversarial_detection": {
            "detectors": {"sure": {"kind": "confidence"}, "far": {"kind": "mahalanobis"}},
            "attacks": {"fgsm": FGSM},
            "adaptive": {"eps": 0.1, "steps": 2, "weights": [1]},
            "examples": 12,
            "held": 20,
        },
        "object_mass": {"attributions": MAPS, "attack": FGSM, "examples": 9, "pictured": 2},
        "trigger_mass": {"attributions": MAPS, "widest": 0.5, "strongest": 0.1, "examples": 9},
        "style_dependence": {"examples": 18, "probe_c": 0.5, "pictured": 2},
        "patterns": {"attack": FGSM, "steps": 4, "baseline": "zero", "region": 0.3, "examples": 9},
        "robust_interpretability": {
            "attack": {"kind": "ddn", "eps": 1.0, "steps": 5},
            "masking": {"eps": 0.1, "steps": 2},
            "painting_steps": 2,
            "painted": 2,
            "examples": 9,
        },
        "components": {"examples": 12, "attack": FGSM, "shown": 1, "portrait": {"steps": 2}},
        "prune_curve": {"shares": [0.5], "examples": 12},
        "concepts": {"examples": 18, "size": 4, "sets": 3, "attack": FGSM},
        "influence_poisoning": {"moved": [1, 3], "steps": 2, "targets": 4, "examples": 9, "pictured": 2},
        "influential_examples": {"examples": 6},
        "poison_forensics": {"detectors": {"sure": {"kind": "lowest_loss"}}, "shown": 3, "components_of": 9},
        "trigger_inversion": {
            "scan": {"inversion": {"passes": 2, "batch_size": 8}},
            "examples": 9,
            "held": 12,
        },
    },
    "models": {
        "denoising_cnn": {"operation": "dot_product", "after": [1], "widths": [3, 4], "hidden": 5},
        "small_cnn": {"widths": [3, 4], "hidden": 5, "until": 2, "bias": False},
        "wide_resnet": {"depth": 10, "dropout": 0.1, "bias": False},
        "timm": {"name": "test_resnet", "options": {"drop_rate": 0.1}},
    },
    "poisons": {
        "badnets": {
            "rate": "1/5",
            "target": 1,
            "mode": "all_to_all",
            "trigger": {"size": 2, "corner": "top_left"},
        },
        "trojan": {
            "rate": "1/5",
            "target": 1,
            "place": {"size": 2, "margin": 1, "corner": "top_left"},
            "low": 50,
            "overflow": "wrap",
        },
        "blend": {"rate": "1/5", "target": 1, "ratio": 0.3, "train_ratio": 0.1, "cover": 0.1},
        "sig": {"rate": "1/5", "target": 1, "delta": 60, "frequency": 1},
        "wanet": {"rate": "1/5", "target": 1, "grid": 3, "strength": 4, "grid_rescale": 0.9, "cover": 0.1},
        "low_frequency": {"rate": "1/5", "target": 1, "amplitude": 24, "frequencies": 2},
        "ftrojan": {"rate": "1/5", "target": 1, "window": 4, "places": [[1, 1], [3, 2]], "magnitude": 40},
        "bpp": {"rate": "1/5", "target": 1, "levels": 3, "dither": True, "cover": 0.2},
        "adap_blend": {"rate": "1/5", "target": 1, "cover": "1/5", "ratio": 0.5, "side": 2, "hidden": 0.25},
        "adap_patch": {
            "rate": "1/5",
            "target": 1,
            "cover": "1/5",
            "size": 1,
            "margin": 0,
            "opacities": [0.9, 0.6, 0.8, 0.7],
            "shown": "two",
        },
        "tact": {
            "rate": "1/5",
            "target": 1,
            "sources": [0],
            "cover_classes": [2],
            "cover": "1/5",
            "trigger": {"size": 2},
        },
        "trojan_optimised": {
            "target": 1,
            "place": {"size": 2},
            "units": 1,
            "steps": 5,
            "canvas": "images",
        },
        "label_consistent": {"target": 1, "steps": 3, "epochs": 1, "trigger": {"amplitude": 0.5}},
        "input_aware": {"target": 1, "levels": 1, "base": 4, "mask_epochs": 1, "epochs": 1, "cover": 0.1},
        "slow_injection": {
            "target": 1,
            "aim": "twin",
            "cover": 0.1,
            "rounds": 2,
            "steps": 3,
            "early_epochs": 1,
        },
    },
}
WITHOUT_IMAGES = "transfer"  # its images are stored by another attack, and the evaluation reads them
DOWNLOADED = "torchvision"  # tests/data feeds it files
ENTRIES = [(table, kind) for table, kinds in TABLES.items() for kind in kinds]


def made(table: str, kind: str, **changes: Any) -> Any:
    return build(TABLES[table], {"kind": kind, **EXAMPLES[table][kind], **changes}, at=f"{table}.x")


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# Every entry


@pytest.mark.parametrize("table", TABLES)
def test_every_kind_has_an_example_here(table: str) -> None:
    assert EXAMPLES[table].keys() == TABLES[table].keys()


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_an_entry_leads_to_a_frozen_class(table: str, kind: str) -> None:
    entry = made(table, kind)
    assert type(entry) is resolve(TABLES[table], kind, at=table)
    for field in dataclasses.fields(entry):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(entry, field.name, getattr(entry, field.name))
    with pytest.raises((TypeError, ValidationError)):
        type(entry)("positional")
    assert entry == made(table, kind)


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_an_entry_names_every_hyper_parameter_in_its_docstring(table: str, kind: str) -> None:
    cls = resolve(TABLES[table], kind, at=table)
    text = cls.__doc__ or ""
    assert text and not text.startswith(f"{cls.__name__}(")  # the signature that a dataclass writes by itself
    unnamed = [field.name for field in dataclasses.fields(cls) if not re.search(rf"\b{field.name}\b", text)]
    assert not unnamed


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_the_parameters_of_an_entry_survive_json(table: str, kind: str) -> None:
    entry = made(table, kind)
    adapter = TypeAdapter(type(entry))
    values = adapter.dump_python(entry, mode="json")
    assert build(TABLES[table], {"kind": kind, **values}, at="x") == entry
    assert adapter.validate_json(adapter.dump_json(entry)) == entry


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_an_entry_refuses_a_key_that_it_does_not_have(table: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{table}\.x\.no_such_key: unknown key"):
        made(table, kind, no_such_key=1)


@pytest.mark.parametrize(("table", "kind"), ENTRIES)
def test_an_entry_takes_no_boolean_for_a_number(table: str, kind: str) -> None:
    entry = made(table, kind)
    for field in dataclasses.fields(entry):
        value = getattr(entry, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with pytest.raises((ConfigError, ValidationError)):
                made(table, kind, **{field.name: True})


# Attacks


@pytest.mark.parametrize("kind", sorted(ATTACKS.keys() - {WITHOUT_IMAGES}))
def test_an_attack_returns_legal_images_and_leaves_everything_else_alone(kind: str) -> None:
    attack = made("attacks", kind)
    model = small_network().train()
    model.body[2].eval()
    model.head.bias.requires_grad_(False)
    x, y = torch.rand(9, 1, 4, 4, generator=fresh()), torch.arange(9) % 3
    before, inputs = snapshot(model), (x.clone(), y.clone())

    x_adv = attack(model, x, y, rng=fresh(1))

    assert same(snapshot(model), before) and same((x, y), inputs)
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert attack.threat.contains(x, x_adv).all() and not torch.equal(x_adv, x)
    torch.manual_seed(5)
    assert torch.equal(attack(model, x, y, rng=fresh(1)), x_adv)
    assert attack(model, x[:0], y[:0], rng=fresh()).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("kind", sorted(ATTACKS.keys() - {WITHOUT_IMAGES}))
def test_an_attack_of_radius_zero_moves_nothing(kind: str) -> None:
    x, y = torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    attack = at_eps(made("attacks", kind), 0.0)  # as a curve does
    assert torch.equal(attack(small_network(), x, y, rng=fresh()), x)


@pytest.mark.parametrize("kind", sorted(ATTACKS.keys() - {WITHOUT_IMAGES}))
@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 2, 2), 2), ((3, 1, 3), 2), ((2, 5, 4), 3), ((1, 4, 4), 5)]
)
def test_an_attack_works_on_few_classes_and_on_tiny_images(
    kind: str, shape: tuple[int, int, int], classes: int
) -> None:
    with global_seed(fresh()):
        model = SmallCNN(widths=(3,), hidden=4)(shape, classes).eval()
    x, y = torch.rand(6, *shape, generator=fresh()), torch.arange(6) % classes
    attack = made("attacks", kind)
    x_adv = attack(model, x, y, rng=fresh(1))
    assert x_adv.shape == x.shape and attack.threat.contains(x, x_adv).all()


@pytest.mark.parametrize("kind", sorted(ATTACKS.keys() - {WITHOUT_IMAGES}))
def test_an_attack_that_draws_nothing_takes_each_image_by_itself_or_says_together(kind: str) -> None:
    attack, model, y = made("attacks", kind), small_network(), torch.arange(8) % 3
    x = torch.rand(8, 1, 4, 4, generator=fresh())
    rng = fresh(1)
    found = attack(model, x, y, rng=rng)
    if not torch.equal(rng.get_state(), fresh(1).get_state()) and not getattr(attack, "together", False):
        return  # its draws lie by the batch
    others = torch.cat([x[:3], torch.rand(5, 1, 4, 4, generator=fresh(2))])
    again = attack(model, others, y, rng=fresh(1))
    alike = torch.allclose(again[:3], found[:3], atol=1e-4)
    assert alike != getattr(attack, "together", False)


# Attacks on explanations


@pytest.mark.parametrize("kind", sorted(EXPLANATION_ATTACKS))
def test_an_attack_on_explanations_keeps_the_prediction_and_leaves_everything_else_alone(kind: str) -> None:
    attack = made("explanation_attacks", kind)
    model = small_network().train()
    model.body[2].eval()
    model.head.bias.requires_grad_(False)
    x = torch.rand(9, 1, 4, 4, generator=fresh())
    before, inputs = snapshot(model), x.clone()

    z = attack(model, x, rng=fresh(1))

    assert same(snapshot(model), before) and torch.equal(x, inputs)
    assert z.shape == x.shape and z.dtype == torch.float32 and not z.requires_grad
    assert attack.threat.contains(x, z).all() and not torch.equal(z, x)
    assert torch.equal(predict(model, z).argmax(1), predict(model, x).argmax(1))
    torch.manual_seed(5)
    assert torch.equal(attack(model, x, rng=fresh(1)), z)
    assert attack(model, x[:0], rng=fresh()).shape == (0, 1, 4, 4)
    assert torch.equal(at_eps(attack, 0.0)(model, x, rng=fresh()), x)


# Poisons


def shop(images: Images, seed: int = 0) -> Workshop:
    """A workshop with everything that a poison may need: a small network, trained briefly."""
    nobody = Images(images.x[:0], images.y[:0])
    recipe = Recipe(epochs=1, batch_size=10)
    fit = Trainer(images, nobody, recipe, seed, torch.device("cpu")).fit
    rng = partial(generator, seed, "poison")
    return Workshop(images, 3, rng, partial(small_network, seed=seed), recipe, fit)


@pytest.mark.parametrize("kind", POISONS)
def test_a_poison_edits_what_its_mask_says_and_nothing_else(kind: str) -> None:
    poison, clean = made("poisons", kind), tiny_images(40)
    x, y = clean.x.clone(), clean.y.clone()

    images, mask, cover, planting = poison(shop(clean))

    assert same(tuple(clean), (x, y))
    edited = mask | cover
    assert cover.shape == y.shape and cover.dtype == torch.bool and not (mask & cover).any()
    assert torch.equal(images.y[cover], y[cover])
    assert images.x.shape == x.shape and images.x.dtype == torch.uint8
    assert images.y.shape == y.shape and images.y.dtype == torch.int64
    assert mask.shape == y.shape and mask.dtype == torch.bool and 0 < int(mask.sum()) < 40
    assert torch.equal(images.x[~edited], x[~edited]) and torch.equal(images.y[~mask], y[~mask])
    assert (images.x[mask] != x[mask]).flatten(1).any(1).all()
    assert set(images.y.tolist()) <= {0, 1, 2}
    torch.manual_seed(5)
    again = poison(shop(clean))
    assert same(tuple(again.images), tuple(images)) and torch.equal(again.mask, mask)
    assert same(dict(again.planting.arrays), dict(planting.arrays))
    assert not torch.equal(poison(shop(clean, seed=1)).mask, mask)


@pytest.mark.parametrize("kind", POISONS)
def test_a_poison_stamps_every_test_image_in_its_order(kind: str) -> None:
    poison, test = made("poisons", kind), tiny_images(12)
    x = test.x.clone()
    stamp = poison(shop(tiny_images(40, seed=1))).planting.stamp
    stamped, hoped = stamp(x), poison.hoped(test.y, classes=3)
    assert torch.equal(test.x, x) and stamped.dtype == torch.uint8 and stamped.shape == x.shape
    assert (stamped != x).any()
    assert hoped.dtype == torch.int64 and hoped.shape == test.y.shape and set(hoped.tolist()) <= {0, 1, 2}
    back = torch.arange(11, -1, -1)
    assert torch.equal(stamp(x[back]), stamped[back])
    assert torch.equal(poison.hoped(test.y[back], classes=3), hoped[back])
    assert torch.equal(torch.cat([stamp(x[:5]), stamp(x[5:])]), stamped)
    assert stamp(x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("kind", POISONS)
def test_a_poison_finds_its_faults_before_it_is_used(kind: str) -> None:
    poison = made("poisons", kind)
    names = [field.name for field in dataclasses.fields(poison)]
    assert poison.faults((1, 4, 4), 3) == [] and poison.faults(None, None) == []
    faults = poison.faults((1, 1, 1), 1)
    assert faults and all(re.match(rf"({'|'.join(names)})\b.*expected .*, got ", fault) for fault in faults)


# Detectors


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_looks_and_leaves_everything_as_it_was(kind: str) -> None:
    model, data, val = small_network().eval(), tiny_images(40), tiny_images(18, seed=1)
    detector = made("detectors", kind)
    assert isinstance(detector, ExampleDetector | InputDetector | ModelScan)
    crafted = None
    if getattr(detector, "needs", ()):
        attack = build(ATTACKS, {"kind": "pgd", "eps": 0.5, "steps": 5}, at="x")
        crafted = {"crafted": attack(model, val.x / 255, val.y, rng=fresh())}
    evidence = Evidence(model, data, val, partial(generator, 0), crafted)
    before, x, y = snapshot(model), data.x.clone(), data.y.clone()

    def look() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        if isinstance(detector, ExampleDetector):
            scores, flags = detector.examine(evidence)
            assert scores.shape == flags.shape == (40,) and flags.dtype == torch.bool
            found += [scores, flags]
        if isinstance(detector, InputDetector):
            suspicion = detector.suspicion(evidence)
            found.append(suspicion(val.x))
            assert found[-1].shape == (18,) and suspicion(val.x[:0]).shape == (0,)
            assert torch.allclose(torch.cat([suspicion(val.x[:7]), suspicion(val.x[7:])]), found[-1])
        if isinstance(detector, ModelScan):
            anomaly, accused = detector.scan(evidence)
            assert anomaly.shape == accused.shape == (3,) and accused.dtype == torch.bool
            found += [anomaly, accused]
        return found

    once = look()
    torch.manual_seed(9)
    assert all(part.isfinite().all() for part in once) and same(look(), once)
    assert same(snapshot(model), before) and torch.equal(data.x, x) and torch.equal(data.y, y)


# Interpretations


@pytest.mark.parametrize("known", [True, False], ids=["with truth", "without"])
@pytest.mark.parametrize("fit", [True, False], ids=["trained", "untrained"])
@pytest.mark.parametrize("kind", INTERPRETATIONS)
def test_an_interpretation_reads_and_leaves_everything_as_it_was(kind: str, fit: bool, known: bool) -> None:
    look = made("interpretations", kind)
    whole = case(known=known, fit=fit)
    before, x = snapshot(whole.model), whole.test.x.clone()
    hooks = [len(module._forward_hooks) for module in whole.model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        readings = look(whole)
    count = min(getattr(look, "examples", 24), 24)
    assert all(values.shape == (count,) for values in readings.each.values())
    assert readings.each or readings.once or readings.notes
    assert all(text.endswith(".") for text in readings.notes)
    assert same(snapshot(whole.model), before) and torch.equal(whole.test.x, x)
    assert [len(module._forward_hooks) for module in whole.model.modules()] == hooks
    torch.manual_seed(7)
    again = look(case(known=known, fit=fit))
    assert again.each.keys() == readings.each.keys() and again.once == readings.once
    pairs = [(again.each[place], values) for place, values in readings.each.items()]
    pairs += [(again.pictures[name], array) for name, array in readings.pictures.items()]
    assert all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs)


# Models


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_is_a_classifier_that_its_generator_decides(kind: str, shape: tuple[int, int, int]) -> None:
    def network(seed: int) -> Classifier:
        with global_seed(generator(seed, "init")):
            model: Classifier = made("models", kind)(shape, 7)
        return model

    model, again, other = network(0), network(0), network(1)
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert not same(dict(model.state_dict()), dict(other.state_dict()))
    assert isinstance(model, Classifier) and model.head.out_features == 7
    assert model.mean.shape == model.std.shape == shape[:1]
    x = torch.rand(5, *shape, generator=fresh())
    before = x.clone()
    logits = predict(model, x)
    assert torch.equal(x, before) and logits.shape == (5, 7) and logits.dtype == torch.float32
    assert logits.isfinite().all()
    with torch.no_grad():
        z = model.eval().features(x)
        assert z.shape == (5, model.head.in_features)
        assert torch.equal(model.head(z), model(x))


# Data sets


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of four grey pictures."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "pictures" / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.mark.parametrize("kind", sorted(DATASETS.keys() - {DOWNLOADED}))
def test_a_data_set_delivers_bytes_and_labels_and_repeats(kind: str, pictures: Path, tmp_path: Path) -> None:
    where = {"path": str(pictures)} if kind == "image_folder" else {}

    def fetch() -> Source:
        source: Source = made("datasets", kind, **where).fetch(tmp_path / "cache")
        return source

    source, again = fetch(), fetch()
    shape, classes = made("datasets", kind, **where).expects
    assert classes in (None, len(source.classes)) and all(isinstance(name, str) for name in source.classes)
    for split, twin in ((source.train, again.train), (source.test, again.test)):
        x, y = split.images
        assert x.dtype == torch.uint8 and x.dim() == 4 and len(x) == len(y) > 0
        assert shape in (None, tuple(x.shape[1:])) and x.shape[1] in (1, 3)
        assert y.dtype == torch.int64 and y.min() >= 0 and y.max() < len(source.classes)
        assert all(len(array) == len(y) for array in split.extra.values())
        assert same(tuple(split.images), tuple(twin.images)) and same(dict(split.extra), dict(twin.extra))
    assert set(source.train.images.y.tolist()) == set(range(len(source.classes)))


@pytest.mark.parametrize("kind", DATASETS)
def test_a_data_set_says_what_it_expects_before_the_fetch(kind: str) -> None:
    shape, classes = made("datasets", kind).expects
    assert shape is None or (len(shape) == 3 and all(side > 0 for side in shape))
    assert classes is None or classes >= 2


# Defenses


def defended(kind: str, *, seed: int = 0, elsewhere: int = 0) -> tuple[Defended, Images]:
    torch.manual_seed(elsewhere)
    bench, _ = workbench(Recipe(epochs=2, batch_size=8), seed=seed)
    defense = made("defenses", kind)
    if getattr(defense, "needs", ()):
        noise = 0.1 * torch.rand(bench.data.x.shape, generator=fresh())
        crafted = (bench.data.x / 255 + noise).clamp(0, 1)
        bench = dataclasses.replace(bench, start=small_network("start", seed), crafted=crafted)
    done: Defended = defense(bench)
    return done, bench.data


@pytest.mark.parametrize("kind", DEFENSES)
def test_a_defense_trains_a_classifier_that_the_seed_decides(kind: str) -> None:
    done, data = defended(kind)
    state = dict(done.model.state_dict())
    assert isinstance(done.model, Classifier) and predict(done.model, data.x).isfinite().all()
    assert same(tuple(data), tuple(tiny_images()))  # the training set is as it was
    assert not same(state, dict(small_network().state_dict()))
    again, other = defended(kind, elsewhere=9)[0], defended(kind, seed=1)[0]
    assert same(dict(again.model.state_dict()), state) and same(dict(again.trace), dict(done.trace))
    assert dict(again.notes) == dict(done.notes)
    assert not same(dict(other.model.state_dict()), state)


@pytest.mark.parametrize("kind", DEFENSES)
def test_a_defense_records_arrays_per_example_and_scalar_notes(kind: str) -> None:
    done, data = defended(kind)
    assert all(isinstance(array, np.ndarray) and len(array) == len(data.y) for array in done.trace.values())
    assert all(isinstance(note, str) or np.isfinite(note) for note in done.notes.values())
    assert all(parameter.requires_grad for parameter in done.model.parameters())
