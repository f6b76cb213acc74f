import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deconfound.config import parse
from deconfound.errors import ConfigError
from deconfound.plan import Plan
from deconfound.runs import Run
from experiments import changed, experiment


def plan(changes: dict[str, Any] | None = None) -> Plan:
    return Plan(experiment(changes))


def run(text: str) -> Run:
    dataset, poison, model, defense, seed = text.split("/")
    return Run(dataset, poison, model, defense, int(seed.removeprefix("seed")))


def test_the_runs_are_the_cells_of_all_studies_for_every_seed_each_once_and_sorted() -> None:
    assert list(map(str, plan().runs())) == [
        "digits/badnets/cnn/cbd/seed0",
        "digits/badnets/cnn/cbd/seed1",
        "digits/badnets/cnn/standard/seed0",
        "digits/badnets/cnn/standard/seed1",
        "digits/clean/cnn/standard/seed0",
        "digits/clean/cnn/standard/seed1",
        "digits/clean/cnn/trades/seed0",
        "digits/clean/cnn/trades/seed1",
    ]


def test_seeds_are_ordered_as_numbers() -> None:
    found = plan({"seeds": [10, 9, 2]}).runs()
    assert [r.seed for r in found if (r.poison, r.defense) == ("clean", "trades")] == [2, 9, 10]


def test_a_run_is_its_path_and_another_part_makes_another_run() -> None:
    one = run("digits/clean/cnn/standard/seed3")
    assert one == Run("digits", "clean", "cnn", "standard", 3)
    assert str(one.with_(defense="cbd", seed=4)) == "digits/clean/cnn/cbd/seed4"
    assert str(one) == "digits/clean/cnn/standard/seed3"


study = st.fixed_dictionaries(
    {
        "datasets": st.just(["digits"]),
        "poisons": st.lists(st.sampled_from(["clean", "badnets"]), min_size=1, unique=True),
        "models": st.just(["cnn"]),
        "recipe": st.just("short"),
        "defenses": st.lists(st.sampled_from(["trades", "cbd"]), unique=True).map(
            lambda rest: [*rest, "standard"]
        ),
    }
)


@settings(deadline=None)
@given(
    st.lists(study, min_size=1, max_size=3), st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True)
)
def test_overlapping_studies_are_merged_whatever_their_order(
    studies: list[dict[str, Any]], seeds: list[int]
) -> None:
    content = changed({"seeds": seeds, "studies": {f"s{i}": found for i, found in enumerate(studies)}})
    expected = {
        ("digits", poison, "cnn", defense, seed)
        for found in studies
        for poison, defense, seed in product(found["poisons"], found["defenses"], seeds)
    }

    found = Plan(parse(content, source="")).runs()

    assert found == sorted(Run(*cell) for cell in expected)
    content["studies"] = dict(reversed(content["studies"].items()))
    content["seeds"] = seeds[::-1]
    assert Plan(parse(content, source="")).runs() == found


def test_a_run_in_two_studies_is_evaluated_under_the_attacks_of_both() -> None:
    again = changed()["studies"]["evasion"] | {"attacks": ["other"], "curves": []}
    found = plan({"attacks.other": {"kind": "fgsm", "eps": 0.2}, "studies.again": again})
    blocks = found.attacks(run("digits/clean/cnn/trades/seed0"))
    assert blocks["order"] == ["pgd", "transfer", "other"] and set(blocks["attacks"]) == set(blocks["order"])
    assert len(list(found.studies(run("digits/clean/cnn/trades/seed0")))) == 2


def test_a_study_gives_its_attacks_to_its_own_defenses_only() -> None:
    other = changed()["studies"]["evasion"] | {
        "defenses": ["standard", "cbd"],
        "attacks": ["other"],
        "curves": [],
    }
    found = plan({"attacks.other": {"kind": "fgsm", "eps": 0.2}, "studies.again": other})
    attacks = {
        name: list(found.attacks(run(f"digits/clean/cnn/{name}/seed0"))["attacks"])
        for name in ("trades", "cbd")
    }
    assert attacks == {"trades": ["pgd", "transfer"], "cbd": ["other"]}


def test_a_curve_that_two_studies_ask_for_is_drawn_once() -> None:
    again = changed()["studies"]["evasion"] | {"title": "the same cells, once more"}
    curves = plan({"studies.again": again}).attacks(run("digits/clean/cnn/trades/seed0"))["curves"]
    assert [(curve["name"], curve["axis"], curve["values"]) for curve in curves] == [
        ("pgd", "eps", [0.0, 0.1])
    ]


def test_of_two_numbers_of_examples_the_larger_is_evaluated_and_all_is_the_largest() -> None:
    def examples(*counts: int | None) -> Any:
        one = changed()["studies"]["evasion"]
        studies = {f"s{i}": one | {"examples": count} for i, count in enumerate(counts)}
        return plan({"studies": studies}).attacks(run("digits/clean/cnn/trades/seed0"))["examples"]

    assert (examples(5), examples(5, 9), examples(9, 5), examples(5, None)) == (5, 9, 9, None)


def test_base_training_is_the_kind_standard_from_scratch_and_lies_in_a_folder_of_its_own() -> None:
    more = {
        "defenses.plain": {"kind": "standard"},
        "defenses.tuned": {"kind": "standard", "starts_from": "plain"},
    }
    found = plan(more | {"studies.evasion.defenses": ["standard", "plain", "tuned", "trades"]})
    folders = [found.folder(Run("digits", "clean", "cnn", name, 0)) for name in ("plain", "tuned", "trades")]
    assert folders == [
        "checkpoints/base/digits/clean/cnn/plain/seed0",
        "checkpoints/defended/digits/clean/cnn/tuned/seed0",
        "checkpoints/defended/digits/clean/cnn/trades/seed0",
    ]


def test_a_defense_starts_from_the_run_with_its_own_data_poison_model_and_seed() -> None:
    found = plan({"defenses.cbd.starts_from": "standard"})
    assert found.start(run("digits/badnets/cnn/cbd/seed1")) == run("digits/badnets/cnn/standard/seed1")
    assert found.start(run("digits/badnets/cnn/standard/seed1")) is None
    assert "starts_from" not in found.training(run("digits/badnets/cnn/cbd/seed1"))["defense"]


def test_a_defense_may_name_its_recipe_and_the_attack_whose_images_it_learns_from() -> None:
    found = plan(
        {
            "recipes.long": {"epochs": 9},
            "defenses.cbd.starts_from": "standard",
            "defenses.cbd.crafted_by": "pgd",
            "defenses.cbd.recipe": "long",
        }
    )
    cbd, base = run("digits/badnets/cnn/cbd/seed1"), run("digits/badnets/cnn/standard/seed1")
    assert (found.training(cbd)["training"]["epochs"], found.training(base)["training"]["epochs"]) == (9, 1)
    assert found.crafted_for(cbd) == (base, "pgd") and found.crafted_for(base) is None
    assert not {"starts_from", "crafted_by", "recipe"} & set(found.training(cbd)["defense"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "lng"}, "defenses.cbd.recipe: expected a name defined in this experiment, got 'lng'"),
        ({"crafted_by": "pgd"}, "defenses.cbd.crafted_by: expected starts_from beside it"),
        ({"starts_from": "standard", "crafted_by": "pdg"}, "did you mean 'pgd'"),
        ({"starts_from": "standard", "crafted_by": "transfer"}, "got the transfer 'transfer'"),
        ({"kind": "namid", "starts_from": "standard"}, "defenses.cbd.crafted_by: required key is missing"),
    ],
)
def test_what_a_defense_cannot_start_with_is_refused(changes: dict[str, Any], said: str) -> None:
    block = {"kind": "trades"} | changes
    with pytest.raises(ConfigError, match=re.escape(said)):
        plan({"defenses.cbd": block})


def test_a_run_is_measured_by_the_properties_of_its_studies() -> None:
    block = {"kind": "vulnerability", "attack": {"eps": 0.1}}
    found = plan({"properties.classes": block, "studies.evasion.properties": ["classes"]})
    asked = found.attacks(run("digits/clean/cnn/trades/seed0"))["properties"]
    assert asked.keys() == {"classes"} and asked["classes"]["attack"]["steps"] == 20
    assert found.attacks(run("digits/badnets/cnn/cbd/seed0"))["properties"] == {}


def test_a_training_is_told_its_model_recipe_and_defense_with_all_defaults() -> None:
    found = plan().training(run("digits/badnets/cnn/cbd/seed0"))
    assert sorted(found) == ["defense", "model", "training"]
    assert found["model"] == {"kind": "small_cnn", "widths": [4], "hidden": 8, "until": 4, "bias": True}
    assert (found["training"]["epochs"], found["training"]["batch_size"]) == (1, 64)
    assert (found["defense"]["kind"], found["defense"]["stop"], found["defense"]["shuffle"]) == (
        "cbd",
        "rule",
        "none",
    )


def test_a_transfer_takes_the_images_of_the_base_run_and_the_budget_of_the_attack_that_crafted_them() -> None:
    defended = run("digits/clean/cnn/trades/seed1")
    assert plan().transfers(defended) == {"transfer": (run("digits/clean/cnn/standard/seed1"), "pgd")}
    assert plan().transfers(run("digits/badnets/cnn/cbd/seed1")) == {}
    block = plan().attacks(defended)["attacks"]["transfer"]
    assert block["crafted_by"]["eps"] == 0.1 and block["crafted_by"]["kind"] == "pgd"


def test_a_transfer_between_models_and_defenses_reads_that_run() -> None:
    changes = {
        "models.big": {"kind": "small_cnn"},
        "studies.evasion.models": ["cnn", "big"],
        "attacks.transfer": {"kind": "transfer", "attack": "pgd", "model": "big", "defense": "trades"},
        "studies.evasion.keep": [],
    }
    found = plan(changes)
    source = run("digits/clean/big/trades/seed0")
    assert found.transfers(run("digits/clean/cnn/standard/seed0")) == {"transfer": (source, "pgd")}
    assert found.crafted() == [(source, "pgd"), (source.with_(seed=1), "pgd")]


def test_crafted_sets_are_those_kept_on_base_runs_and_those_that_transfers_need() -> None:
    base = [(run(f"digits/clean/cnn/standard/seed{s}"), "pgd") for s in (0, 1)]
    assert plan().crafted() == base
    assert plan({"studies.evasion.keep": []}).crafted() == base
    assert plan({"studies.evasion.attacks": ["pgd"]}).crafted() == base
    assert plan({"studies.evasion.attacks": ["pgd"], "studies.evasion.keep": []}).crafted() == []


def test_every_cell_knows_its_control() -> None:
    found = plan({"studies.backdoor.control": "cbd"}).controls()
    assert found == {
        "digits/badnets/cnn/cbd": "cbd",
        "digits/badnets/cnn/standard": "cbd",
        "digits/clean/cnn/standard": "standard",
        "digits/clean/cnn/trades": "standard",
    }


def test_a_study_of_one_defense_compares_nothing_and_binds_no_control() -> None:
    defended = changed({"studies.backdoor.control": "cbd"})["studies"]["backdoor"]
    alone = defended | {"control": "standard", "defenses": ["standard"]}
    found = plan({"studies.backdoor": alone, "studies.second": defended}).controls()
    assert {found[f"digits/badnets/cnn/{name}"] for name in ("standard", "cbd")} == {"cbd"}
    assert plan({"studies.backdoor": alone}).controls()["digits/badnets/cnn/standard"] == "standard"


def test_two_controls_for_one_run_are_refused_since_one_would_be_dropped_in_silence() -> None:
    again = changed()["studies"]["evasion"] | {"control": "trades"}
    with pytest.raises(ConfigError, match="control"):
        experiment({"studies.again": again})


def test_a_fetch_is_told_the_source_and_how_the_splits_are_cut() -> None:
    found = plan({"datasets.digits.slice": {"train": 50}, "datasets.digits.split_seed": 3}).fetching("digits")
    assert found == {
        "source": {"kind": "digits", "test": 100, "seed": 0},
        "val": 0.1,
        "slice": {"train": 50, "test": None},
        "split_seed": 3,
    }


def test_attacks_run_in_the_order_of_the_study_and_say_which_are_measured_alone() -> None:
    changes = {
        "attacks.zero": {"kind": "fgsm", "eps": 0.1},
        "studies.evasion.attacks": ["zero", "transfer", "pgd"],
    }
    found = plan(changes | {"studies.evasion.alone": ["pgd", "zero"]}).attacks(
        run("digits/clean/cnn/trades/seed0")
    )
    assert found["order"] == ["zero", "transfer", "pgd"] and found["alone"] == ["zero", "pgd"]
    assert plan().attacks(run("digits/clean/cnn/trades/seed0"))["alone"] == []


def test_the_gate_looks_at_every_model_unless_a_study_leaves_it_out() -> None:
    cell = run("digits/clean/cnn/trades/seed0")
    assert plan().attacks(cell)["gate"]["examples"] == 100
    assert plan({"studies.evasion.gate": None}).attacks(cell)["gate"] is None
    smaller = plan({"studies.evasion.gate": {"examples": 7, "queries": 20}}).attacks(cell)["gate"]
    assert (smaller["examples"], smaller["queries"], smaller["restarts"]) == (7, 20, 5)


def test_of_two_gates_for_the_same_runs_the_one_with_more_examples_is_asked() -> None:
    again = changed()["studies"]["evasion"] | {"gate": {"examples": 300}}
    found = plan({"studies.again": again}).attacks(run("digits/clean/cnn/trades/seed0"))
    assert found["gate"]["examples"] == 300


def test_a_curve_runs_over_eps_or_over_steps() -> None:
    curves = [{"attack": "pgd", "eps": [0, "1/10"]}, {"attack": "pgd", "steps": [1, 10]}]
    found = plan({"studies.evasion.curves": curves}).attacks(run("digits/clean/cnn/trades/seed0"))["curves"]
    assert [(curve["axis"], curve["values"]) for curve in found] == [("eps", [0.0, 0.1]), ("steps", [1, 10])]
