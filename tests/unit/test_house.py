"""The house itself: imports point down, and nothing heavy is imported unasked."""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

SOURCE = ROOT / "pytest_tenpak"

#: What the modules of each package, or each module of the ground floor, may import of this package.
GROUND = ("errors", "spec", "progress", "units")
RULES: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "store": set(),
    "metrics": set(),
    "units": {"errors"},
    "spec": {"errors", "store.digest"},
    "models": {"errors", "store", "metrics"},
    "baselines": {"errors", "store", "metrics"},
    "diagnosis": {"errors", "store", "metrics", "models"},
    "quantizers": {"errors", "spec", "progress", "units", "store", "models"},
    "evaluation": {"errors", "spec", "progress", "store", "metrics", "models"},
    "verdict": {"metrics", "baselines"},
    "execution": {*GROUND, "store", "metrics", "models", "quantizers", "evaluation", "verdict.criteria"},
}
RULES["execution"].add("diagnosis.shipped")
RULES["machines"] = {*GROUND, "store", "metrics", "models", "quantizers", "evaluation", "execution"}
RULES["gate"] = {*RULES, "verdict"}
RULES["session"] = {*RULES, "gate"} - {"quantizers", "evaluation", "diagnosis"}
RULES["recommend"] = {*RULES, "gate"} - {"machines", "session", "evaluation", "diagnosis"}
RULES["reports"] = {"errors", "store", "metrics", "baselines", "verdict", "gate.outcome", "gate.summary"}
RULES["plugin"] = {*RULES, "reports"} - {"recommend"}
RULES["cli"] = {*RULES, "plugin"} - {"execution", "quantizers", "evaluation"}
RULES["__main__"] = {"cli.main"}
#: Of these, ``plugin`` has one module each that may import them.
ONE_DOOR = {
    "execution": "plugin.run_state",
    "quantizers.registry": "plugin.run_state",
    "machines.device": "plugin.run_state",
    "quantizers.loading": "plugin.fixture",
}
HEAVY = {"torch", "transformers", "bitsandbytes", "datasets", "accelerate"}
#: Where torch and its kin may be imported, when they are needed: what runs in a job's process, the fixture that
#: loads a model for a test, and the conversion of a user's own.
TORCH = (
    "quantizers",
    "evaluation",
    "execution",
    "models.convert",
    "models.decoder",
    "models.dispatched",
    "plugin.fixture",
    "diagnosis.shipped",
)
#: Derives classes from torch's and transformers', and is itself imported only where these are.
DERIVES = "quantizers.int4.modules"
#: Who really starts processes.
SUBPROCESS = {
    "execution.command",
    "execution.process",
    "execution.template",
    "execution.memory",
    "quantizers.interpreters",
    "machines.device",
    "baselines.git",
}


class Import(NamedTuple):
    """An import: who, what (a dotted module of ours, or a distribution's top name), and how."""

    importer: str
    imported: str
    ours: bool
    at_top: bool
    typing_only: bool


@cache
def modules() -> dict[str, Path]:
    """The file of every module by its dotted name below the package; packages by their own."""
    return {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}


def parsed(path: Path) -> ast.Module:
    """The syntax of a file, which nobody keeps: those of all files are half a million objects."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of() -> dict[str, list[Import]]:
    """Every import of the package's modules, by the module that imports."""
    return {name: list(_imports(name, parsed(path))) for name, path in modules().items()}


def imports() -> list[Import]:
    """Every import of the package's modules."""
    return list(chain.from_iterable(imports_of().values()))


def _imports(name: str, tree: ast.Module) -> Iterator[Import]:
    nodes = list(ast.walk(tree))
    typing_only = {
        node
        for block in nodes
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for target, ours in targets(name, node):
                yield Import(name, target, ours, node in tree.body, node in typing_only)


def targets(importer: str, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, bool]]:
    """What one statement imports; of ours the module, also where the statement names it behind a package."""
    if isinstance(node, ast.Import):
        yield from ((alias.name.partition(".")[0], False) for alias in node.names)
    elif not node.level:
        yield (node.module or "").partition(".")[0], False
    else:
        parts = importer.split(".")
        base = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
        whole = ".".join(part for part in base if part)
        for alias in node.names:
            inner = f"{whole}.{alias.name}".lstrip(".")
            yield inner if inner in modules() or f"{inner}.__init__" in modules() else whole, True


def room(module: str) -> str:
    """The package, or the module of the ground floor, that a module belongs to."""
    return module.partition(".")[0]


def is_within(module: str, allowed: Iterable[str]) -> bool:
    """Whether a module is one of those, or inside one."""
    return any(module == one or module.startswith(f"{one}.") for one in allowed)


def test_every_module_has_its_room():
    """Nothing stands in the root but the ground floor, and every package has its rule."""
    assert {room(name) for name in modules()} - {"__init__"} == set(RULES)
    assert {name for name in modules() if "." not in name} == {*GROUND, "__init__", "__main__"}


def test_imports_follow_the_rules_of_the_house():
    """A module imports from its own package, and from those that the rules name: always downwards."""
    for one in imports():
        if not one.ours or one.typing_only or one.importer == "__init__":
            continue
        if room(one.importer) != room(one.imported):
            assert is_within(one.imported, RULES[room(one.importer)]), (
                f"{one.importer} imports {one.imported}"
            )


def test_no_module_imports_another_in_a_circle():
    """Whatever is imported can be read before what imports it."""
    TopologicalSorter(
        {
            name: {one.imported for one in found if one.ours} & modules().keys()
            for name, found in imports_of().items()
        }
    ).prepare()


def test_the_plugin_opens_one_door_to_each_heavy_part():
    """Parts are put together in run_state.py, and models are loaded by the fixture, nowhere else."""
    for one in imports():
        if room(one.importer) == "plugin" and one.ours and not one.typing_only:
            for part, door in ONE_DOOR.items():
                assert not is_within(one.imported, (part,)) or one.importer == door, one


def test_heavy_libraries_are_imported_only_where_they_work_and_only_when_needed():
    """torch and its kin: in a job's process and what loads models, never at the top of a module."""
    assert not [one for one in imports() if one.imported == DERIVES and one.at_top]
    for one in imports():
        if one.imported in HEAVY and not one.ours:
            assert not one.at_top or one.importer == DERIVES, one
            assert is_within(one.importer, TORCH), one


def test_only_plugin_and_cli_know_pytest():
    """Everything below could serve another front end as well."""
    for one in imports():
        if one.imported in ("pytest", "_pytest"):
            assert room(one.importer) in ("plugin", "cli"), one


def test_only_who_starts_processes_imports_subprocess():
    """So that whatever leaves this process is found in few places."""
    assert {one.importer for one in imports() if one.imported == "subprocess"} == SUBPROCESS


def test_a_job_in_another_interpreter_needs_nothing_but_the_standard_library():
    """Whatever its entry module reaches at the top of modules is ours, or Python's own."""
    reached, wanted = set(), ["execution.main"]
    while wanted:
        name = wanted.pop()
        if name in reached:
            continue
        reached.add(name)
        for one in imports_of().get(name, []):
            if one.at_top:
                if one.ours:
                    wanted.append(one.imported if one.imported in modules() else f"{one.imported}.__init__")
                else:
                    assert one.imported in sys.stdlib_module_names, f"{name} imports {one.imported}"
    assert len(reached) > 20


def test_faces_of_packages_import_nothing():
    """Importing one module of a package costs that module, and not its neighbours."""
    for name, path in modules().items():
        if name.endswith(".__init__"):
            tree = parsed(path)
            assert not [node for node in tree.body if isinstance(node, ast.Import)], name
            found = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
            assert found <= {"typing"}, name


@pytest.mark.parametrize("module", ["_pytest", "xdist"])
def test_no_private_modules_of_others(module):
    """pytest's public names only."""
    assert not [one for one in imports() if one.imported == module]


#: An import of this package in text that some process runs: code for ``python -c``, a test file that a test writes.
IN_TEXT = re.compile(r"^\s*from (pytest_tenpak[\w.]*) import ([^;\n]+)", re.MULTILINE)


def texts_with_imports() -> Iterator[tuple[str, str, str]]:
    """Each name that a string of tests, benchmarks or examples imports: where, from which module, what."""
    for path in sorted(
        f for folder in ("tests", "benchmarks", "examples") for f in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, names in IN_TEXT.findall(node.value):
                    for name in names.split(","):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", module, name.split(" as ")[0].strip()


def exists(module: str, name: str) -> bool:
    """Whether the module has that name, or is a package with such a module."""
    imported = importlib.import_module(module)
    return hasattr(imported, name) or (
        hasattr(imported, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


def test_code_in_strings_imports_names_that_exist():
    """No checker reads code that a test hands to another process, so a renamed function breaks it unseen."""
    found = list(texts_with_imports())
    assert len(found) > 20
    missing = [one for one in found if not exists(*one[1:])]
    assert missing == []
