"""The package's rooms import each other in one direction only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "co_probe"
# A room may import those before it; rooms of one line do not import each other.
ORDER = [
    {"errors", "progress"},
    {"numerics"},
    {"config", "executor"},
    {"files"},
    {"data", "models", "attacks", "store", "plots"},
    {"inference"},
    {"indicators"},
    {"methods"},
    {"runs"},
    {"training"},
    {"probes"},
    {"diagnosis", "monitoring"},
    {"sweeps", "lightning", "benchmarks"},
    {"reporting"},
    {"cli"},
    {"studies"},  # what comes from outside: nothing in the core imports it
]
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
DOORS = ("__init__", "__main__")  # the public names, imported on first use, and `python -m co_probe`
NO_TORCH = ("errors", "config", "files", "store", "plots", "diagnosis")


def imported(file: Path) -> set[str]:
    """Every module that `file` imports, wherever in it, by its whole name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str | None:
    """The room of a module `co_probe.room...`; None for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "co_probe" and len(parts) > 1 else None


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if rooms_of(file) not in DOORS]


def test_every_file_has_its_room():
    assert {rooms_of(file) for file in FILES} <= set(FLOOR)
    assert len(FILES) > 100


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_room_imports_only_rooms_below(name):
    wrong = []
    for file in (file for file in FILES if rooms_of(file) == name):
        for module in imported(file):
            other = room(module)
            # The public names lead to all rooms.
            if module == "co_probe" or (other in FLOOR and other != name and FLOOR[other] >= FLOOR[name]):
                wrong.append(f"{file.relative_to(PACKAGE)} imports {module}")
    assert not wrong


def test_only_one_file_of_the_core_names_the_studies():
    naming = [file for file in FILES if "co_probe.studies" in file.read_text(encoding="utf-8")]
    assert [str(file.relative_to(PACKAGE)) for file in naming if rooms_of(file) != "studies"] == ["config/discovery.py"]


def test_no_file_imports_itself_through_others():
    """Late imports and those for type checkers count: what needs each other belongs into one file."""
    files = {module_name(file): file for file in FILES}
    below = {}
    for name, file in files.items():
        targets = {module if module in files else module.rpartition(".")[0] for module in imported(file)}
        below[name] = targets & files.keys() - {name}
    while loose := [name for name, others in below.items() if not others & below.keys()]:
        for name in loose:
            del below[name]
    circles = {name: sorted(others & below.keys()) for name, others in below.items()}
    assert not circles


@pytest.mark.parametrize("name", NO_TORCH)
def test_these_rooms_do_without_torch(name):
    for file in (file for file in FILES if rooms_of(file) == name):
        roots = {module.split(".")[0] for module in imported(file)}
        assert not roots & {"torch", "torchvision"}, file
