"""The shape of the source: who may import whom, what may be called where, how long and how documented it is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import deconfound

SOURCE = Path(deconfound.__file__).resolve().parent
FILES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}

# A module may import modules of earlier layers, and modules of its own package that stand before it.
LAYERS = [
    ["errors", "runs", "entries"],
    ["types", "torchvision_operators"],
    ["fields"],
    ["gate", "calibration_spec"],
    ["rng", "threat", "registry", "storage", "fingerprint", "progress", "device", "optim", "yaml_files"],
    ["data"],
    ["models"],
    ["attributions"],
    ["attacks"],
    ["information"],
    ["profiles"],
    ["estimators"],
    ["estimator_training"],
    ["recipe"],
    ["optimisers"],
    ["components"],
    ["detectors"],
    ["influence_poisoning"],
    ["defenses"],
    ["training"],
    ["poisons"],
    ["engine"],
    ["evaluation"],
    ["measures"],
    ["detection"],
    ["properties"],
    ["interpretations"],
    ["statistics"],
    ["decomposition"],
    ["calibration"],
    ["comparisons"],
    ["probes"],
    ["trust"],
    ["experiment"],
    ["plan"],
    ["checks"],
    ["config"],
    ["paths"],
    ["graph"],
    ["results"],
    ["readings"],
    ["effectiveness"],
    ["tables"],
    ["backdoor_tables"],
    ["ledger"],
    ["ledger_tables"],
    ["claims"],
    ["report"],
    ["steps"],
    ["options"],
    ["commands"],
    ["__main__"],
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


@cache
def tree(file: str) -> ast.Module:
    return ast.parse(FILES[file].read_text(encoding="utf-8"))


def module(file: str) -> str:
    return f"deconfound.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


def imports(file: str, *, deferred: bool) -> set[str]:
    """Modules of ours that a file imports: inside functions (deferred), or while it is itself imported."""
    inside = {
        id(node)
        for outer in ast.walk(tree(file))
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    found = set()
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Import | ast.ImportFrom) or (id(node) in inside) != deferred:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not node.level, f"{file} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        found |= {name for name in names if name in MODULES and name != "deconfound"}
    return found


def top(name: str) -> str:
    return name.split(".")[1]


def test_every_module_has_a_layer() -> None:
    assert {top(name) for name in MODULES if name != "deconfound"} == set(LAYER)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("deferred", [False, True], ids=["at import", "deferred"])
def test_imports_follow_the_order_of_the_graph(file: str, deferred: bool) -> None:
    if module(file) == "deconfound":
        assert not imports(file, deferred=deferred)
        return
    own = top(module(file))
    for name in imports(file, deferred=deferred):
        earlier = LAYER[top(name)] < LAYER[own] or (top(name) == own)
        assert earlier, f"{module(file)} imports {name}"


def test_no_module_imports_itself_by_a_detour() -> None:
    def reach(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for other in sorted(imports(MODULES[name], deferred=False)):
                reach(other, (*way, name))
            done.add(name)

    done: set[str] = set()
    for name in MODULES:
        reach(name, ())


def outside(file: str) -> set[str]:
    """Libraries that a file imports anywhere."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("file", FILES)
def test_no_module_imports_a_workflow_tool_or_a_serialiser_of_code(file: str) -> None:
    assert not outside(file) & {
        "snakemake",
        "dvc",
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
    }


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("report/")])
def test_the_report_imports_no_model_and_no_library_of_models(file: str) -> None:
    assert not outside(file) & {"torch", "torchvision", "timm", "safetensors", "captum"}
    allowed = {"report", "errors", "storage", "statistics", "fields", "types"}
    ours = imports(file, deferred=False) | imports(file, deferred=True)
    assert {top(name) for name in ours} <= allowed


def test_types_imports_nothing_of_ours_and_tables_of_kinds_hold_nothing_else() -> None:
    assert not imports("types.py", deferred=False) | imports("types.py", deferred=True)
    packages = ("attacks", "attributions", "data", "defenses", "detectors", "models", "poisons", "properties")
    packages += ("interpretations",)
    for package in packages:
        docstring, *tables = tree(f"{package}/__init__.py").body
        assert isinstance(docstring, ast.Expr) and tables, package
        for table in tables:
            assert isinstance(table, ast.Assign) and isinstance(table.value, ast.Dict), package
            for value in table.value.values:
                assert isinstance(value, ast.Constant)
                address, _, name = str(value.value).partition(":")
                assert f"class {name}" in FILES[MODULES[address]].read_text(encoding="utf-8")


def calls(file: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]


DANGEROUS = {
    "torch.load",
    "torch.save",
    "pickle.load",
    "pickle.loads",
    "np.fromfile",
    "eval",
    "exec",
    "os.system",
}


@pytest.mark.parametrize("file", FILES)
def test_nothing_loads_code_or_pickles(file: str) -> None:
    assert not DANGEROUS & set(calls(file))
    text = FILES[file].read_text(encoding="utf-8")
    assert "allow_pickle=True" not in text and "shell=True" not in text and "weights_only=False" not in text
    yaml = [name for name in calls(file) if re.fullmatch(r"yaml\.\w*load\w*", name)]
    assert yaml == (["yaml.load"] if file == "yaml_files.py" else [])


def test_the_one_reader_of_yaml_is_a_safe_one() -> None:
    (call,) = [
        node
        for node in ast.walk(tree("yaml_files.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load"
    ]
    assert [(word.arg, ast.unparse(word.value)) for word in call.keywords] == [("Loader", "_UniqueKeys")]
    (loader,) = [
        node
        for node in tree("yaml_files.py").body
        if isinstance(node, ast.ClassDef) and node.name == "_UniqueKeys"
    ]
    assert [ast.unparse(base) for base in loader.bases] == ["yaml.SafeLoader"]


WRITERS = {"storage.py", "data/downloads.py", "report/pdf.py"}  # the last one into a temporary folder
WRITING = re.compile(r"np\.save\w*|json\.dump|save_file|shutil\.\w+|os\.rename|.*\.(write_text|write_bytes)")


@pytest.mark.parametrize("file", [file for file in FILES if file not in WRITERS])
def test_files_are_written_by_the_module_of_storage_only(file: str) -> None:
    """Whoever writes without its `atomic` could leave half a file."""
    text = FILES[file].read_text(encoding="utf-8")
    assert [name for name in calls(file) if WRITING.fullmatch(name)] == [] or "with atomic(" in text


@pytest.mark.parametrize("file", FILES)
def test_a_module_is_short_its_functions_are_shorter_and_no_except_is_bare(file: str) -> None:
    assert len(FILES[file].read_text(encoding="utf-8").splitlines()) <= 320
    for node in ast.walk(tree(file)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, node.name


def undocumented(body: list[ast.stmt], path: str = "") -> list[str]:
    """Public functions, classes and methods without a docstring."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.name.startswith("_") and not (ast.get_docstring(node) or "").strip():
                found.append(f"{path}{node.name}")
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found += undocumented(node.body, f"{path}{node.name}.")
    return found


@pytest.mark.parametrize("file", FILES)
def test_everything_public_is_documented(file: str) -> None:
    assert ast.get_docstring(tree(file))
    assert undocumented(tree(file).body) == []


@pytest.mark.parametrize("file", [file for file in FILES if file != "__main__.py"])
def test_only_the_command_line_and_the_log_print(file: str) -> None:
    assert "print" not in calls(file) or file == "progress.py"
