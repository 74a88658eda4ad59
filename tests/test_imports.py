"""Imports point one way: main -> what users call -> what it is made of -> the leaves."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

LEAVES = {"acquisition_functions", "load_data", "cnn_model", "active_learning.models.kernels"}
ONLY_ONES_WITH_TORCH = ("cnn_model", "active_learning.models.", "acquisition_functions")  # the last for its types only
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("active_learning/**/*.py")])
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

SETTINGS = [name for name in NAMES if name.startswith("active_learning.settings")]
FORBIDDEN = {
    **{key: {f"active_learning.{name}" for name in ("loop", "disk", "models", "report", "work")} for key in SETTINGS},
    "active_learning.loop": {"active_learning.disk.store", "active_learning.models", "torch", "cnn_model"},
    "active_learning.disk.record": {"active_learning", "torch"},
    "active_learning.disk.store": {"active_learning.loop", "cnn_model", "torch"},
    "active_learning.settings.learners": {"active_learning.settings.config", "active_learning.models", "torch"},
    "active_learning.models.mbr": {"active_learning", "torch", "cnn_model"},
    "active_learning.streams": {"active_learning", "torch"},
    "active_learning.interruption": {"active_learning"},
    "active_learning.work.status": {"torch", "active_learning.loop", "active_learning.work.execution"},
    "active_learning.models.kernels": {"torch"},
    **{
        key: {"active_learning.loop", "active_learning.work"}
        for key in NAMES
        if key.startswith(("active_learning.ranking", "active_learning.images"))
    },
    "load_data": {"torch"},
}


def imports(path: Path, *, at_the_top: bool = False) -> set[str]:
    """The modules that a file imports, anywhere or at its top only."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_the_top else list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} if not submodules & set(NAMES) else submodules & set(NAMES)
    return found


def ours(path: Path) -> set[str]:
    """The modules of this project that a file imports."""
    return imports(path) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_forbidden_is_imported(name: str) -> None:
    forbidden = FORBIDDEN.get(name, set())
    for module in imports(NAMES[name]):
        parents = {".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 2)}
        assert not parents & forbidden, f"{name} imports {module}"


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_nothing_of_ours(name: str) -> None:
    assert not ours(NAMES[name])


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(ONLY_ONES_WITH_TORCH)])
def test_only_the_models_know_torch(name: str) -> None:
    assert not {module for module in imports(NAMES[name]) if module.partition(".")[0] in ("torch", "skorch")}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("active_learning.report")])
def test_the_report_knows_no_model(name: str) -> None:
    assert not {module for module in ours(NAMES[name]) if module.startswith(("active_learning.models", "cnn_model"))}


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"main"}))
def test_nothing_imports_main(name: str) -> None:
    assert "main" not in ours(NAMES[name])


FLOORS = {
    "settings": 1, "disk": 2, "models": 2, "images": 3, "loop": 3, "report": 4, "work": 5, "ranking": 5, "main": 6,
}  # fmt: skip
"""Everything else stands on the ground: the files at the root, and what knows no other file."""


def place(name: str) -> str:
    """The folder of a module, or what a module is called that has none."""
    return name.removeprefix("active_learning.").partition(".")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_imports_what_is_below_it_only(name: str) -> None:
    for other in ours(NAMES[name]):
        if place(other) != place(name):
            assert FLOORS.get(place(other), 0) < FLOORS.get(place(name), 0), f"{name} imports {other}"


def test_imports_have_no_circles() -> None:
    left = {name: ours(path) for name, path in NAMES.items()}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"these import one another: {left}"


def test_main_imports_nothing_slow_at_its_top() -> None:
    assert not imports(NAMES["main"], at_the_top=True) & {"torch", "numpy", "active_learning.work.runner"}
