"""The documents: the reference agrees with the code, links lead somewhere, README stays short."""

import argparse
import re
from importlib import import_module, metadata

import pytest
import yaml
from places import ROOT

from pytest_tenpak.cli.main import COMMANDS
from pytest_tenpak.gate.arguments import ARGUMENTS
from pytest_tenpak.plugin import options
from pytest_tenpak.quantizers.presets import PRESETS
from pytest_tenpak.quantizers.registry import Registry
from pytest_tenpak.verdict.checks import Status

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")],
    key=lambda page: page.relative_to(ROOT).parts,
)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SETTINGS = (options.MODEL, *options.DEFAULTS, *options.RUN)
METHODS = [(method, option) for method in Registry() for option in Registry()[method].options]


def section(title: str) -> str:
    """What stands below a heading of the reference, up to the next one of the same level."""
    return REFERENCE.split(f"\n## {title}\n")[1].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of tables, without backticks around a cell."""
    lines = (line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---"))
    cells = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row] for row in cells]


def defaults(title: str) -> dict[str, str]:
    """The default of each argument or option of a section, as it is written there."""
    return {name: default for name, default, *_ in rows(section(title))}


def fits(written: str, default: object) -> bool:
    """Whether a documented default is the code's; words stand for one that depends on something else."""
    if default in (None, ""):
        return not re.fullmatch(r"[\d.]+|True|False|on|off", written)
    if isinstance(default, bool):
        return written in (str(default), "on" if default else "off")
    if isinstance(default, float):
        return re.fullmatch(r"[\d.]+", written) is not None and float(written) == default
    return written == str(default)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_reference_has_every_argument_of_the_marker(name):
    """With its default."""
    assert fits(defaults("The marker")[name], ARGUMENTS[name].default)


def test_the_reference_has_no_argument_that_the_marker_lacks():
    """Nor any twice."""
    names = [row[0] for row in rows(section("The marker"))[1:]]
    assert sorted(names) == sorted(ARGUMENTS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_the_reference_has_every_option_with_its_default(setting):
    """And says which have an ini setting: those above the second table."""
    text = section("Options and ini settings")
    default = setting.option.default if setting.ini else None
    assert fits(defaults("Options and ini settings")[setting.flag], default)
    with_ini = text.partition("These say what one run is to do")[0]
    assert (f"| `{setting.flag}` |" in with_ini) == setting.ini


def test_the_reference_has_every_option_of_every_method_with_its_default():
    """No more, no fewer, each in its method's rows."""
    documented, method = {}, ""
    for first, name, default, _ in rows(section("Methods and their options"))[1:]:
        method = first or method
        documented[method, name] = default
    assert documented.keys() - {("fp16", "")} == {(method, option.name) for method, option in METHODS}
    for method, option in METHODS:
        assert fits(documented[method, option.name], option.default), (method, option.name)


def test_the_reference_has_every_preset_status_and_extra():
    """By name."""
    extras = metadata.metadata("pytest-tenpak").get_all("Provides-Extra")
    for title, names in (("Presets", PRESETS), ("Statuses and exit codes", Status), ("Extras", extras)):
        assert [str(name) for name in names if f"`{name}`" not in section(title)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_subcommand_with_its_options(command):
    """As its help lists them."""
    text = section("The `tenpak` command")
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `tenpak {command}"))
    module = import_module(f"pytest_tenpak.cli.{command}")
    parser = argparse.ArgumentParser(add_help=False)
    getattr(module, "add_arguments", lambda parser: None)(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert set(re.findall(r"--(?!tenpak)[\w-]+", line)) == flags


def anchors(text: str) -> set[str]:
    """The headings of a page as GitHub names them in addresses."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """To files of this repository, and to headings of them."""
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_fits_on_two_screens():
    """Whatever else there is to say stands in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_named_by_the_readme():
    """So that each is found."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT) for page in PAGES if page.parent.name == "docs" or page.parent == ROOT]
    assert [str(page) for page in pages if str(page) != "README.md" and f"({page})" not in readme] == []


def test_the_pre_commit_hook_of_this_repository_checks_its_baselines_and_nothing_else():
    """``baselines/`` is also the name of a package here, and its schemas are no baselines."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    pattern = re.compile(hooks["tenpak-check"]["files"])
    paths = [*(ROOT / "baselines").rglob("*.json"), *(ROOT / "pytest_tenpak").rglob("*.json")]
    checked = {path for path in paths if pattern.search(path.relative_to(ROOT).as_posix())}
    assert checked == set((ROOT / "baselines").rglob("*.json")) != set()
