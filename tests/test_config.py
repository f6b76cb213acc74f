import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconfound.__main__ import main
from deconfound.attacks.pgd import PGD
from deconfound.config import parse, read
from deconfound.errors import ConfigError
from deconfound.experiment import full, make
from deconfound.fingerprint import fingerprint
from deconfound.graph import Graph
from deconfound.plan import Plan
from deconfound.yaml_files import load_yaml
from experiments import GONE, ROOT, changed, experiment, write

SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "experiments").glob("*.yaml"))]


def faults(content: dict[str, Any]) -> list[str]:
    """The lines of the refusal, without the file's name, which each must begin with."""
    with pytest.raises(ConfigError) as caught:
        parse(content, source="tiny.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("tiny.yaml: ") for line in lines)
    return [line.removeprefix("tiny.yaml: ") for line in lines]


def load_fault(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


UNKNOWN_KEYS = {
    "seedz": (1, "seeds"),
    "studies.evasion.attcks": ([], "attacks"),
    "studies.evasion.curves.0.epss": ([0, 1], "eps"),
    "datasets.digits.tests": (100, "test"),
    "datasets.digits.slice.trian": (5, "train"),
    "models.cnn.width": ([4], "widths"),
    "recipes.short.epoch": (1, "epochs"),
    "poisons.badnets.raet": (0.1, "rate"),
    "poisons.badnets.trigger.sizee": (2, "size"),
    "attacks.pgd.epz": (0.1, "eps"),
    "attacks.transfer.attck": ("pgd", "attack"),
    "defenses.cbd.stopp": ("rule", "stop"),
    "defenses.trades.ascent.step": (1, "steps"),
    "defenses.trades.ascent.threat.epz": (0.1, "eps"),
}


@pytest.mark.parametrize("place", UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_key_of_its_own_level(place: str) -> None:
    value, nearest = UNKNOWN_KEYS[place]
    (line,) = faults(changed({place: value}))
    assert line.startswith(f"{place}: unknown key")
    assert f"did you mean {nearest!r}?" in line


UNKNOWN_NAMES: dict[str, tuple[dict[str, Any], str, str]] = {
    # what is changed, the place that the message names, what was got, what is offered
    "dataset of a study": ({"studies.evasion.datasets": ["digit"]}, "studies.evasion.datasets.0", "digits"),
    "poison of a study": ({"studies.backdoor.poisons": ["badnet"]}, "studies.backdoor.poisons.0", "badnets"),
    "model of a study": ({"studies.evasion.models": ["cn"]}, "studies.evasion.models.0", "cnn"),
    "recipe of a study": ({"studies.evasion.recipe": "shrt"}, "studies.evasion.recipe", "short"),
    "defense of a study": ({"studies.evasion.defenses.1": "trade"}, "studies.evasion.defenses.1", "trades"),
    "control of a study": ({"studies.evasion.control": "standart"}, "studies.evasion.control", "standard"),
    "attack of a study": ({"studies.evasion.attacks.0": "pdg"}, "studies.evasion.attacks.0", "pgd"),
    "kept attack of a study": ({"studies.evasion.keep": ["pdg"]}, "studies.evasion.keep.0", "pgd"),
    "attack of a curve": (
        {"studies.evasion.curves.0.attack": "pdg"},
        "studies.evasion.curves.0.attack",
        "pgd",
    ),
    "kind of data set": ({"datasets.digits.kind": "digit"}, "datasets.digits.kind", "digits"),
    "kind of model": ({"models.cnn.kind": "smal_cnn"}, "models.cnn.kind", "small_cnn"),
    "kind of poison": ({"poisons.badnets.kind": "badnet"}, "poisons.badnets.kind", "badnets"),
    "kind of attack": ({"attacks.pgd.kind": "pdg"}, "attacks.pgd.kind", "pgd"),
    "kind of defense": ({"defenses.trades.kind": "trade"}, "defenses.trades.kind", "trades"),
    "architecture of timm": (
        {"models.cnn": {"kind": "timm", "name": "resnet5"}},
        "models.cnn.name",
        "resnet50",
    ),
    "defense to start from": (
        {"defenses.trades.starts_from": "standart"},
        "defenses.trades.starts_from",
        "standard",
    ),
    "attack of a transfer": ({"attacks.transfer.attack": "pdg"}, "attacks.transfer.attack", "pgd"),
}


@pytest.mark.parametrize("case", UNKNOWN_NAMES)
def test_an_unknown_name_is_refused_with_its_place_and_the_nearest_known_one(case: str) -> None:
    changes, place, nearest = UNKNOWN_NAMES[case]
    got = next(iter(changes.values()))
    got = got["name"] if isinstance(got, dict) else got[0] if isinstance(got, list) else got
    (line,) = faults(changed(changes))
    assert line.startswith(f"{place}: expected ")
    assert f"got {got!r}" in line
    assert f"did you mean {nearest!r}?" in line


WRONG_VALUES: dict[str, tuple[str, Any, str]] = {
    "true as a real number": ("attacks.pgd.eps", True, "boolean"),
    "true as a whole number": ("attacks.pgd.steps", True, "boolean"),
    "true as a seed": ("seeds.0", True, "boolean"),
    "text as a number": ("attacks.pgd.eps", "large", "'large'"),
    "text as a whole number": ("recipes.short.epochs", "many", "'many'"),
    "a fraction of epochs": ("recipes.short.epochs", 1.5, "number with a fractional part"),
    "division by zero": ("attacks.pgd.eps", "1/0", "'1/0'"),
    "not a number": ("attacks.pgd.eps", float("nan"), "nan"),
    "infinity": ("attacks.pgd.eps", "inf", "'inf'"),
    "list for a number": ("attacks.pgd.eps", [0.1], "[0.1]"),
    "number for a list": ("seeds", 3, "3"),
    "text for a list": ("seeds", "0", "'0'"),
    "list for a block": ("attacks.pgd", [1], "[1]"),
    "nothing for a block": ("attacks.pgd", None, "None"),
    "list for a section": ("attacks", [1], "[1]"),
    "number for a trigger": ("poisons.badnets.trigger", 3, "3"),
    "number for a name": ("name", 7, "7"),
    "list for a defense to start from": ("defenses.trades.starts_from", ["standard"], "['standard']"),
    "mapping for a defense to start from": ("defenses.trades.starts_from", {}, "{}"),
    "no word of a list": ("attacks.pgd.norm", "l3", "'l3'"),
    "negative eps": ("attacks.pgd.eps", -0.1, "-0.1"),
    "negative eps in a defense": ("defenses.trades.ascent.threat.eps", -1, "-1"),
    "negative eps in a curve": ("studies.evasion.curves.0.eps.1", -1, "-1"),
    "no step": ("attacks.pgd.steps", 0, "0"),
    "poison rate 0": ("poisons.badnets.rate", 0, "0"),
    "poison rate 1": ("poisons.badnets.rate", 1, "1"),
    "all of train as val": ("datasets.digits.val", 1, "1"),
    "negative seed": ("seeds.0", -1, "-1"),
    "a curve of one point": ("studies.evasion.curves.0.eps", [0.1], "[0.1]"),
    "no seed": ("seeds", [], "[]"),
    "no data set in a study": ("studies.evasion.datasets", [], "[]"),
    "no poison in a study": ("studies.evasion.poisons", [], "[]"),
    "no model in a study": ("studies.evasion.models", [], "[]"),
    "no defense in a study": ("studies.evasion.defenses", [], "[]"),
    "no study": ("studies", {}, "{}"),
    "no width of a network": ("models.cnn.widths", [], "[]"),
    "no example": ("studies.evasion.examples", 0, "0"),
    "no kind": ("attacks.pgd.kind", None, "None"),
    "a list as kind": ("attacks.pgd.kind", ["pgd"], "['pgd']"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_wrong_value_is_refused_with_its_place_what_was_expected_and_what_was_got(case: str) -> None:
    place, value, got = WRONG_VALUES[case]
    (line,) = faults(changed({place: value}))
    assert line.startswith(f"{place}: ")
    assert "expected" in line or "should" in line
    assert f"got {got}" in line or f"got a {got}" in line


@pytest.mark.parametrize("place", ["name", "seeds", "studies.evasion.recipe", "attacks.pgd.eps"])
def test_a_missing_key_is_named(place: str) -> None:
    assert faults(changed({place: GONE})) == [f"{place}: required key is missing"]


@pytest.mark.parametrize("bad", ["Upper", "with-dash", "with space", "../up", "a/b", "", "ümlaut", "a.b"])
@pytest.mark.parametrize("section", ["models", "attacks", "studies"])
def test_a_name_that_cannot_be_part_of_a_path_is_refused(section: str, bad: str) -> None:
    content = changed()
    content[section][bad] = dict(next(iter(content[section].values())))
    (line,) = faults(content)
    assert line.startswith(f"{section}.{bad}.")
    assert f"lower-case letters, digits and '_', got {bad!r}" in line


def test_the_experiment_has_a_name_that_can_be_part_of_a_path() -> None:
    assert "lower-case letters, digits and '_', got 'My Run'" in faults(changed({"name": "My Run"}))[0]


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a target outside the classes": (
        {"poisons.badnets.target": 10},
        "poisons.badnets.target: expected a label from 0 to 9, got 10",
    ),
    "a trigger larger than the picture": (
        {"poisons.badnets.trigger": {"size": 8, "margin": 1}},
        "poisons.badnets.trigger: expected a patch inside 8 x 8 pixels, got 8 pixels and margin 1",
    ),
    "equal seeds": ({"seeds": [3, 1, 3]}, "seeds: expected different seeds, got [3, 1, 3]"),
    "a poison called clean": ({"poisons.clean": {"kind": "badnets"}}, "poisons.clean: the name 'clean'"),
    "a defense that starts from itself": (
        {"defenses.trades.starts_from": "trades"},
        "defenses.trades.starts_from: expected another defense, got 'trades'",
    ),
    "a chain of defenses": (
        {"defenses.trades.starts_from": "cbd", "defenses.cbd.starts_from": "standard"},
        "defenses.trades.starts_from: expected a defense that starts from nothing, got 'cbd'",
    ),
    "a start outside the study": (
        {"defenses.trades.starts_from": "cbd"},
        "studies.evasion.defenses: 'trades' starts from 'cbd', which is not in the list",
    ),
    "a control outside the study": (
        {"studies.evasion.control": "cbd"},
        "studies.evasion.control: expected a name defined in this experiment, got 'cbd'",
    ),
    "a name twice in a list": (
        {"studies.evasion.attacks": ["pgd", "pgd"]},
        "studies.evasion.attacks.1: 'pgd'",
    ),
    "a transfer whose source is not run": (
        {"attacks.transfer.defense": "cbd"},
        "attacks.transfer: expected a run of this experiment as source, got digits/clean/cnn/cbd/seed",
    ),
    "a transfer from a model that is not run": (
        {"attacks.transfer.model": "other"},
        "attacks.transfer: expected a run of this experiment as source, got digits/clean/other/standard/seed",
    ),
    "a transfer of a transfer": (
        {"attacks.transfer.attack": "transfer"},
        "attacks.transfer.attack: expected an attack that crafts images, got the transfer 'transfer'",
    ),
    "a kept transfer": (
        {"studies.evasion.keep": ["transfer"]},
        "studies.evasion.keep: expected an attack that crafts images, got the transfer 'transfer'",
    ),
    "a curve of a transfer": (
        {"studies.evasion.curves": [{"attack": "transfer", "eps": [0, 1]}]},
        "studies.evasion.curves: expected an attack that crafts images, got the transfer 'transfer'",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_combination_is_refused(case: str) -> None:
    changes, expected = IMPOSSIBLE[case]
    found = faults(changed(changes))
    assert any(expected in line for line in found)
    assert len(found) == len(set(found)), "the same fault is said more than once"


def test_one_run_with_two_recipes_is_refused_and_names_both() -> None:
    other = changed()["studies"]["backdoor"] | {"recipe": "long", "defenses": ["standard"]}
    found = faults(changed({"recipes.long": {"epochs": 2}, "studies.again": other}))
    assert all("has two recipes (long, short)" in line for line in found)
    assert {line.split()[1] for line in found} == {"digits/badnets/cnn/standard"}


@pytest.mark.parametrize(
    "section, name", [("attacks", "worst_case"), ("attacks", "none"), ("poisons", "any")]
)
def test_a_name_that_the_tables_and_ledgers_use_for_something_else_is_reserved(
    section: str, name: str
) -> None:
    block = {"attacks": {"kind": "pgd", "eps": 0.1}, "poisons": {"kind": "badnets"}}[section]
    (line,) = faults(changed({f"{section}.{name}": block}))
    assert line.startswith(f"{section}.{name}: ")


def test_every_fault_of_a_file_is_said_at_once() -> None:
    keys = faults(changed({"seedz": 1, "studies.evasion.attcks": [], "seeds": [True], "name": "A B"}))
    assert {line.partition(":")[0] for line in keys} == {"seedz", "studies.evasion.attcks", "seeds.0", "name"}
    assert sum("did you mean 'seeds'?" in line or "did you mean 'attacks'?" in line for line in keys) == 2

    blocks = {"attacks.pgd.eps": -1, "attacks.pgd.steps": 0, "poisons.badnets.rate": 1, "recipes.short.lr": 0}
    places = [line.partition(":")[0] for line in faults(changed(blocks | {"datasets.digits.vall": 1}))]
    assert sorted(places) == sorted([*blocks, "datasets.digits.vall"])

    names = {
        "studies.evasion.recipe": "a",
        "studies.backdoor.models": ["b"],
        "defenses.trades.starts_from": "c",
    }
    places = [line.partition(":")[0] for line in faults(changed(names))]
    assert places == ["defenses.trades.starts_from", "studies.evasion.recipe", "studies.backdoor.models.0"]


def test_a_wrong_value_in_a_block_does_not_hide_a_wrong_name_in_a_study() -> None:
    found = faults(changed({"attacks.pgd.eps": -1, "studies.evasion.recipe": "shrt"}))
    assert {line.partition(":")[0] for line in found} == {"attacks.pgd.eps", "studies.evasion.recipe"}


@given(st.sampled_from([f"{a}{b}" for a in "sxz" for b in ("eed", "ets", "")]), st.none() | st.integers())
def test_no_unknown_key_is_ever_ignored(key: str, value: int | None) -> None:
    assert [line.partition(":")[0] for line in faults(changed({key: value}))] == [key]


NOT_YAML = {
    "an open bracket": ("a: [", "not valid YAML"),
    "a tab": ("a:\n\t- 1", "not valid YAML"),
    "a Python object": ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "an undefined alias": ("a: *b", "not valid YAML"),
    "a zero byte": ("a: \x00", "not valid YAML"),
    "a key twice": ("a: 1\nb: 2\na: 3", "'a' stands twice"),
    "a key twice, further in": ("a:\n  b: {c: 1, c: 2}", "'c' stands twice"),
    "a list as key": ("? [a, b]\n: c", "not valid YAML"),
    "a mapping as key": ("? {a: b}\n: c", "not valid YAML"),
    "an impossible date": ("a: 2024-99-99", "not valid YAML"),
    "a false tag": ("a: !!int many", "not valid YAML"),
    "a false truth": ("a: !!bool maybe", "not valid YAML"),
    "a false time": ("a: !!timestamp x", "not valid YAML"),
    "brackets without end": ("[" * 5000, "not valid YAML"),
    "a list": ("- a\n- b", "expected a mapping of keys to values, got list"),
    "a text": ("hello", "expected a mapping of keys to values, got str"),
    "nothing": ("", "expected a mapping of keys to values, got NoneType"),
}


@pytest.mark.parametrize("case", NOT_YAML)
def test_a_file_that_is_not_a_yaml_mapping_with_different_keys_is_refused(case: str, tmp_path: Path) -> None:
    text, expected = NOT_YAML[case]
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    assert expected in load_fault(path)


def test_a_file_that_is_missing_a_folder_or_not_text_is_named(tmp_path: Path) -> None:
    assert load_fault(tmp_path / "nowhere.yaml") == "cannot be read: No such file or directory"
    assert load_fault(tmp_path) == "cannot be read: Is a directory"
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    assert load_fault(tmp_path / "image.yaml").startswith("not valid YAML")


def test_equal_keys_under_a_merge_are_overrides_and_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n", encoding="utf-8")
    assert load_yaml(path)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "written, value",
    [
        ("8/255", 8 / 255),
        ("1.84/255", 1.84 / 255),
        ("8 / 255", 8 / 255),
        ("1e-3", 1e-3),
        ("1E3", 1e3),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-0", 0.0),
    ],
)
def test_numbers_are_read_as_people_write_them(written: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"eps: {written}\n", encoding="utf-8")
    attack = make("attacks", "pgd", {"kind": "pgd", "eps": load_yaml(path)["eps"]})
    assert attack.eps == value and type(attack.eps) is float


@given(st.integers(0, 999), st.integers(1, 999))
def test_a_fraction_is_the_nearest_float_to_its_exact_value(above: int, below: int) -> None:
    assert make("attacks", "pgd", {"kind": "pgd", "eps": f"{above}/{below}"}).eps == float(
        Fraction(above, below)
    )


def test_a_block_becomes_its_object_and_is_written_out_with_every_default() -> None:
    assert make("attacks", "pgd", {"kind": "pgd", "eps": "1/4"}) == PGD(eps=0.25)
    assert full("attacks", "pgd", {"kind": "pgd", "eps": "1/4"}) == {
        "kind": "pgd",
        "eps": 0.25,
        "norm": "linf",
        "steps": 20,
        "step_size": None,
        "restarts": 1,
        "score": "cross_entropy",
        "random_start": True,
        "momentum": 0.0,
        "samples": 1,
        "early_stop": False,
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_experiment_is_valid_and_has_runs(path: Path) -> None:
    found = read(path)
    assert Plan(found).runs()
    assert all((ROOT / ledger).is_file() for ledger in found.ledgers)


def test_the_default_experiment_has_three_seeds_and_a_model_of_timm() -> None:
    found = read(ROOT / "config.yaml")
    assert len(found.seeds) >= 3
    assert "timm" in {found.models[run.model]["kind"] for run in Plan(found).runs()}


def test_overrides_are_laid_over_the_file_key_by_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml")
    found = read(path, {"seeds": [7], "attacks": {"pgd": {"eps": "1/2"}}})
    assert found.seeds == [7]
    assert found.attacks["pgd"] == {"kind": "pgd", "eps": "1/2", "steps": 2}
    assert found.attacks["transfer"] == {"kind": "transfer", "attack": "pgd"}
    assert "attacks.pgd.eps: " in str(
        pytest.raises(ConfigError, read, path, {"attacks": {"pgd": {"eps": -1}}})
    )


def test_overrides_reach_any_depth(tmp_path: Path) -> None:
    deep = read(write(tmp_path / "a.yaml"), {"defenses": {"trades": {"ascent": {"steps": 9}}}}).defenses[
        "trades"
    ]
    assert deep["ascent"] == {"threat": {"eps": 0.1}, "step_size": 0.1, "steps": 9}


def test_reading_the_default_experiment_in_a_fresh_process_imports_no_heavy_library() -> None:
    code = (
        "import sys, deconfound.__main__; assert 'torch' not in sys.modules, 'the command line imports torch'\n"
        "from pathlib import Path; from deconfound.config import read; read(Path('config.yaml'))\n"
        "heavy = {'timm', 'captum', 'torchvision', 'sklearn', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def refuse(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says on standard error when it ends with status 1."""
    monkeypatch.setattr(sys, "argv", ["deconfound", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("deconfound: error: ") and "Traceback" not in err
    return err


def test_the_command_line_refuses_a_bad_experiment_with_one_message_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.yaml", {"attacks.pgd.eps": -0.1, "studies.evasion.recipe": "short"})
    said = refuse(["plan", str(path)], monkeypatch, capsys)
    assert said == (
        f"deconfound: error: {path}: attacks.pgd.eps: input should be greater than or equal to 0, got -0.1\n"
    )
    assert "cannot be read" in refuse(["plan", str(tmp_path / "nowhere.yaml")], monkeypatch, capsys)


def test_a_bad_experiment_ends_the_process_with_status_1_and_no_traceback(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", {"poisons.badnets.rate": 1})
    words = [sys.executable, "-m", "deconfound", "plan", str(path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"deconfound: error: {path}: poisons.badnets.rate: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.workflow
def test_snakemake_refuses_a_bad_experiment_before_any_job_with_the_same_message(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", {"poisons.badnets.target": 10})
    snakefile = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path / "work")]
    words = [sys.executable, "-m", "snakemake", "-n", "--configfile", str(path), *snakefile]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"deconfound: error: {path}: studies.backdoor on digits: poisons.badnets.target: expected" in said
    assert "Traceback" not in said
    assert not (tmp_path / "work" / "data").exists()


OUTSIDE = '''"""A defense that lives outside the project."""
from typing import ClassVar
from deconfound.defenses.standard import Standard
from deconfound.defenses.workbench import Adaptive
from deconfound.fields import Positive, hyperparameters

@hyperparameters
class Mine:
    """strength: of it."""
    adaptive: ClassVar[Adaptive] = Adaptive("nothing to know", attacks=("pgd",))
    strength: Positive = 1.0

    def __call__(self, bench):
        """Train."""
        return Standard()(bench)

class Plain:
    """Not a hyper-parameter class."""

SOMETHING = 3
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A module on sys.path, outside of the package; its name differs from test to test."""
    path = tmp_path / f"outside_{abs(hash(request.node.name))}.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_a_method_from_outside_is_resolved_and_validated(outside: Path) -> None:
    kind = f"{outside.stem}:Mine"
    found = experiment({"defenses.trades": {"kind": kind, "strength": "1/2"}})
    block = Plan(found).block("defenses", "trades")
    assert block == {"kind": kind, "strength": 0.5}
    assert make("defenses", "trades", block).strength == 0.5
    (line,) = faults(changed({"defenses.trades": {"kind": kind, "strenght": 1}}))
    assert line.startswith("defenses.trades.strenght: unknown key; did you mean 'strength'?")
    (line,) = faults(changed({"defenses.trades": {"kind": kind, "strength": -1}}))
    assert line == "defenses.trades.strength: input should be greater than 0, got -1"


def test_the_file_of_a_method_from_outside_is_in_the_fingerprint_of_its_training(outside: Path) -> None:
    class Wildcards:
        dataset, poison, model, defense, seed = "digits", "clean", "cnn", "trades", "0"

    graph = Graph(experiment({"defenses.trades": {"kind": f"{outside.stem}:Mine"}}))
    before = graph.train_code(Wildcards)
    assert before == fingerprint("deconfound.steps.train", "deconfound.models.small_cnn", outside.stem)
    assert graph.train_code(Wildcards) == before
    outside.write_text(OUTSIDE.replace("Standard()(bench)", "None"), encoding="utf-8")
    assert graph.train_code(Wildcards) != before


WAYS = {
    "module": [sys.executable, "-m", "deconfound", "plan"],
    "script": [str(Path(sys.executable).parent / "deconfound"), "plan"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_method_in_the_working_directory_is_found_however_the_program_is_started(
    way: str, tmp_path: Path
) -> None:
    (tmp_path / "own_method.py").write_text(OUTSIDE, encoding="utf-8")
    path = write(tmp_path / "own.yaml", {"defenses.trades": {"kind": "own_method:Mine"}})
    done = subprocess.run([*WAYS[way], path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits/clean/cnn/trades/seed0" in done.stdout


BAD_ADDRESSES = [
    "{0}:Other",
    "nowhere_at_all:X",
    "{0}:",
    ":X",
    ":",
    "..up:X",
    "{0}:SOMETHING",
    "os:path",
    "{0}:Plain",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_address_that_leads_to_no_method_is_refused(address: str, outside: Path) -> None:
    kind = address.format(outside.stem)
    (line,) = faults(changed({"defenses.trades": {"kind": kind}}))
    assert line.startswith("defenses.trades.kind: ") and kind in line


def test_a_module_from_outside_that_does_not_compile_is_refused(outside: Path) -> None:
    outside.write_text("class Mine(:\n", encoding="utf-8")
    found = faults(changed({"defenses.trades": {"kind": f"{outside.stem}:Mine"}}))
    assert found[0].startswith("defenses.trades.kind: cannot load ")


def test_a_defense_that_declares_no_adaptive_attack_is_refused(outside: Path) -> None:
    text = "\n".join(line for line in OUTSIDE.splitlines() if "adaptive:" not in line)
    outside.write_text(text, encoding="utf-8")
    (line,) = faults(changed({"defenses.trades": {"kind": f"{outside.stem}:Mine"}}))
    assert line.startswith("defenses.trades: expected a defense that declares its adaptive attack")
    assert line.endswith("got Mine, which has none")


@pytest.mark.parametrize("attacks, fine", [(["transfer"], False), (["fgsm"], False), (["fgsm", "pgd"], True)])
def test_an_attacked_defense_has_to_meet_an_attack_that_knows_it(attacks: list[str], fine: bool) -> None:
    changes = {"attacks.fgsm": {"kind": "fgsm", "eps": 0.1}, "studies.evasion.attacks": attacks}
    if fine:
        experiment(changes)
    else:
        lines = faults(changed(changes))
        assert lines[0] == (
            "studies: 'standard' needs an attack that knows it (pgd, apgd, apgd_targeted, autoattack), got"
            f" {attacks[0]}"
        )


def test_an_attack_of_another_study_of_the_same_runs_will_do() -> None:
    again = changed()["studies"]["evasion"] | {"attacks": ["fgsm"], "curves": [], "keep": []}
    experiment({"attacks.fgsm": {"kind": "fgsm", "eps": 0.1}, "studies.again": again})
    eot = {"kind": "eot", "attack": {"kind": "pgd", "eps": 0.1}}
    experiment({"attacks.eot": eot, "studies.evasion.attacks": ["eot"]})


@pytest.mark.parametrize(
    "curve", [{"attack": "pgd"}, {"attack": "pgd", "eps": [0, 0.1], "steps": [1, 2]}], ids=["neither", "both"]
)
def test_a_curve_over_neither_or_both_axes_is_refused(curve: dict[str, Any]) -> None:
    (line,) = faults(changed({"studies.evasion.curves": [curve]}))
    assert line.startswith("studies.evasion.curves.0: expected either a list of eps or a list of steps")


def test_an_attack_measured_alone_has_to_be_among_the_attacks() -> None:
    (line,) = faults(changed({"studies.evasion.alone": ["pdg"]}))
    assert line.startswith("studies.evasion.alone.0: expected a name defined in this experiment, got 'pdg'")


def test_a_curve_over_the_steps_of_an_attack_that_takes_none_is_refused() -> None:
    changes = {"attacks.one": {"kind": "fgsm", "eps": 0.1}}
    (line,) = faults(changed(changes | {"studies.evasion.curves": [{"attack": "one", "steps": [1, 2]}]}))
    assert line == "studies.evasion.curves.0: expected an attack that has steps, got FGSM"
    averaged = {"kind": "eot", "attack": {"kind": "pgd", "eps": 0.1}}
    curve = {"attack": "eot", "steps": [1, 2]}
    experiment({"attacks.eot": averaged, "studies.evasion.curves": [curve]})


LEARNT = {"kind": "label_consistent", "target": 2}


@pytest.mark.parametrize(
    "more, said",
    [
        (
            {},
            [
                "poisons.learnt.recipe: required key is missing",
                "poisons.learnt.surrogate: required key is missing",
            ],
        ),
        ({"surrogate": "cnn"}, ["poisons.learnt.recipe: required key is missing"]),
        (
            {"surrogate": "cn", "recipe": "short"},
            ["poisons.learnt.surrogate: expected a name defined in this experiment"],
        ),
        (
            {"surrogate": "cnn", "recipe": "x"},
            ["poisons.learnt.recipe: expected a name defined in this experiment"],
        ),
        (
            {"surrogate": "cnn", "recipe": "short", "remark": 3},
            ["poisons.learnt.remark: expected text, got 3"],
        ),
    ],
)
def test_a_poison_that_trains_for_itself_says_with_which_network_and_how(more: Any, said: list[str]) -> None:
    found = sorted(faults(changed({"poisons.learnt": LEARNT | more})))
    assert len(found) == len(said)
    assert all(line.startswith(words) for line, words in zip(found, said, strict=True))


def test_a_remark_on_a_poison_changes_no_job() -> None:
    plain = Plan(experiment())
    marked = Plan(experiment({"poisons.badnets.remark": "For readers."}))
    assert plain.poisoning("badnets") == marked.poisoning("badnets")
