from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deconfound
from deconfound import fingerprint as source
from deconfound.fingerprint import closure, fingerprint

FILES = {
    "__init__.py": '"""A package."""\n',
    "alone.py": '"""Alone."""\n\nimport math\n\n\ndef f(x):\n    """Double."""\n    return 2 * x\n',
    "user.py": "from deconfound.alone import f\n\n\nclass C:\n    '''A class.'''\n\n    y = f(3)\n",
    "late.py": "def g():\n    import deconfound.user\n\n    return deconfound.user.C\n",
    "sub/__init__.py": 'TABLE = {"a": "deconfound.sub.a:A"}\n',
    "sub/a.py": "from .b import thing\nfrom .. import alone\nfrom ..user import C\n",
    "sub/b.py": "from . import c\n\nthing = 1\n",
    "sub/c.py": "from deconfound.sub import TABLE\n",
    "ring.py": "from deconfound import gnir\n",
    "gnir.py": "from deconfound import ring\n",
}
NAMES = sorted(
    "deconfound." + name.removesuffix(".py").replace("/", ".") for name in FILES if "__init__" not in name
)


class Package:
    """A small package, whose files can be edited."""

    def __init__(self, root: Path) -> None:
        self.root = root / "deconfound"
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        source.read.cache_clear()

    def digests(self) -> dict[str, str]:
        return {name: fingerprint(name) for name in NAMES}

    def touched(self, name: str, text: str) -> set[str]:
        """Whose fingerprint changes when a file becomes `text`."""
        before = self.digests()
        self.write(name, text)
        return {
            name.removeprefix("deconfound.")
            for name, value in self.digests().items()
            if value != before[name]
        }


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.setattr(source, "ROOT", tmp_path)
    yield Package(tmp_path)
    source.read.cache_clear()


SAME = {
    "a comment": '"""Alone."""\n\nimport math  # maths\n\n\n# twice\ndef f(x):\n    """Double."""\n    return 2 * x\n',
    "another docstring of the module": FILES["alone.py"].replace("Alone.", "All by itself."),
    "another docstring of a function": FILES["alone.py"].replace("Double.", "Two times."),
    "no docstring": "import math\n\n\ndef f(x):\n    return 2 * x\n",
    "another layout": "import math\ndef f( x ) :\n        return (2\n            *x)\n",
    "line ends of another system": FILES["alone.py"].replace("\n", "\r\n"),
    "a number written otherwise": FILES["alone.py"].replace("2 * x", "0x2 * x"),
}


@pytest.mark.parametrize("case", SAME)
def test_comments_docstrings_and_layout_change_nothing(case: str, package: Package) -> None:
    assert package.touched("alone.py", SAME[case]) == set()


OTHER = {
    "another number": FILES["alone.py"].replace("2 * x", "3 * x"),
    "another order": FILES["alone.py"].replace("2 * x", "x * 2"),
    "another type of number": FILES["alone.py"].replace("2 * x", "2.0 * x"),
    "another name": FILES["alone.py"].replace("def f(x)", "def f(x, *, y=1)"),
    "another import": FILES["alone.py"].replace("import math", "import cmath"),
    "a text that is no docstring": FILES["alone.py"].replace(
        "return 2 * x", "'''A remark.'''\n    return 2 * x"
    ),
    "a decorator": FILES["alone.py"].replace("def f", "@staticmethod\ndef f"),
    "a default": FILES["alone.py"].replace("(x)", "(x=None)"),
    "a sign": FILES["alone.py"].replace("2 * x", "-2 * x"),
    "an operator": FILES["alone.py"].replace("2 * x", "2 + x"),
}


@pytest.mark.parametrize("case", OTHER)
def test_an_edit_of_code_changes_the_file_and_all_that_import_it(case: str, package: Package) -> None:
    assert package.touched("alone.py", OTHER[case]) == {"alone", "user", "late", "sub.a"}


def test_going_back_gives_the_old_fingerprint(package: Package) -> None:
    before = package.digests()
    package.write("alone.py", OTHER["a sign"])
    package.write("alone.py", FILES["alone.py"])
    assert package.digests() == before


def test_imports_are_followed_absolute_relative_inside_functions_and_around_a_ring(package: Package) -> None:
    def names(module: str) -> list[str]:
        return [name.removeprefix("deconfound.") for name in closure(f"deconfound.{module}")]

    assert names("alone") == ["alone"]
    assert names("late") == ["alone", "late", "user"]
    assert names("sub.a") == ["alone", "sub.a", "sub.b", "sub.c", "user"]
    assert names("ring") == ["gnir", "ring"]


def test_a_table_of_kinds_does_not_count(package: Package) -> None:
    assert package.touched("sub/__init__.py", 'TABLE = {"a": "deconfound.sub.a:A", "b": "x:B"}\n') == set()


def test_the_order_in_which_modules_are_named_does_not_count_and_the_set_does(package: Package) -> None:
    one, two = "deconfound.alone", "deconfound.ring"
    assert fingerprint(one, two) == fingerprint(two, one) == fingerprint(one, two, one)
    assert len({fingerprint(one, two), fingerprint(one), fingerprint(two), fingerprint()}) == 4


def test_equal_files_under_different_names_are_different(package: Package) -> None:
    package.write("twin.py", FILES["alone.py"])
    assert fingerprint("deconfound.twin") != fingerprint("deconfound.alone")


def test_a_module_that_does_not_exist_is_an_error(package: Package) -> None:
    with pytest.raises(ModuleNotFoundError, match="deconfound.nowhere"):
        fingerprint("deconfound.nowhere")


@given(st.text(alphabet="abc #\"'", max_size=20))
def test_no_comment_at_the_end_of_a_line_counts(text: str) -> None:
    root = Path(deconfound.__file__).parents[1]
    code = (root / "deconfound" / "errors.py").read_text(encoding="utf-8")
    import ast

    noted = "\n".join(f"{line}  # {text}" if line.startswith("class") else line for line in code.splitlines())
    assert source._shape(ast.parse(noted)) == source._shape(ast.parse(code))


def test_a_module_from_outside_counts_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "outside_of_the_package.py"
    path.write_text("x = 1\n", encoding="utf-8")
    alone = fingerprint("deconfound.errors")
    before = fingerprint("deconfound.errors", path.stem)
    assert before not in (alone, fingerprint(path.stem))
    path.write_text("x = 2\n", encoding="utf-8")
    assert fingerprint("deconfound.errors", path.stem) != before


def test_a_method_from_outside_that_builds_on_ours_depends_on_ours(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "borrowing_method.py").write_text(
        "from deconfound.alone import f\n", encoding="utf-8"
    )
    before = fingerprint("borrowing_method")
    package.write("alone.py", OTHER["another number"])
    assert fingerprint("borrowing_method") != before


def test_a_defense_is_covered_with_all_that_it_uses_and_without_its_neighbours() -> None:
    names = closure("deconfound.steps.train", "deconfound.defenses.cbd")
    assert {"deconfound.training", "deconfound.information", "deconfound.storage"} <= set(names)
    assert not {"deconfound.defenses.trades", "deconfound.models.timm_models", "deconfound.plan"} & set(names)
