"""Other interpreters: named in several forms, asked what they have, and lent nothing of this one's."""

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_tenpak.errors import SpecError, UnavailableError
from pytest_tenpak.quantizers.interpreters import Interpreters, installed_in, parse_interpreters


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The interpreter of an environment that has nothing installed."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


ROOT = Path("/project")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", {}),
        ("{}", {}),
        ("auto-gptq=envs/old/bin/python", {"auto-gptq": "/project/envs/old/bin/python"}),
        ("a = /x/python , b=y/python", {"a": "/x/python", "b": "/project/y/python"}),
        ("\n a=/x/python\n b=/y/python,\n", {"a": "/x/python", "b": "/y/python"}),
        ("a=/with=equals/python", {"a": "/with=equals/python"}),
        ('{"auto-gptq": "envs/old/bin/python"}', {"auto-gptq": "/project/envs/old/bin/python"}),
        ("{'a': '/x, y/python', 'b': '/z'}", {"a": "/x, y/python", "b": "/z"}),
        ("a=~/env/bin/python", {"a": str(Path.home() / "env/bin/python")}),
    ],
)
def test_forms_that_name_interpreters(text, parsed):
    """Pairs or a mapping; home and relative paths are filled in."""
    assert parse_interpreters(text, ROOT) == {name: Path(path) for name, path in parsed.items()}


@pytest.mark.parametrize(
    "text",
    [
        "envs/old/bin/python",
        "=/x/python",
        "a=",
        "{",
        "{'a'}",
        "{'a': 1}",
        "{1: '/x'}",
        "{'a': ['/x']}",
        "{'a': open('/etc/passwd')}",
        "{**{'a': '/x'}}",
        "{'': '/x'}",
        "a=~nobody-of-this-name/python",
        "{" * 5000,
    ],
)
def test_what_names_no_interpreter(text):
    """The error shows what is accepted, with an example; nothing in the text is executed."""
    with pytest.raises(SpecError) as caught:
        parse_interpreters(text, ROOT)
    assert "NAME=PATH" in str(caught.value)
    assert "auto-gptq=envs/old/bin/python" in str(caught.value)


@pytest.mark.parametrize("text", ["a=/x,a=/y", "auto_gptq=/x,Auto-GPTQ=/y", "{'a': '/x', 'a': '/y'}"])
def test_one_interpreter_for_a_name(text):
    """Two for one name, however it is spelled, is a mistake and not the last one's victory."""
    with pytest.raises(SpecError, match="two interpreters are named"):
        parse_interpreters(text, ROOT)


def test_links_stay_links(tmp_path):
    """A virtual environment's python is a link; resolved, it would be the system's."""
    (tmp_path / "python").symlink_to(sys.executable)
    assert parse_interpreters("a=python", tmp_path) == {"a": tmp_path / "python"}


def test_who_works_where(bare):
    """The one that was named, under any spelling of the distribution; None stands for this one."""
    interpreters = Interpreters({"auto-gptq": bare, "here": Path(sys.executable)})
    assert interpreters.python("Auto_GPTQ") == bare
    assert interpreters.python("autoawq") is None
    assert interpreters.python("here") is None


def test_versions_here_and_there(bare):
    """This one has pytest; a bare one has not, wherever it is started from. Absent ones are left out."""
    interpreters = Interpreters({"other": bare})
    here = interpreters.versions("mine", "pytest", "no-such-library")
    assert here == {"python": ".".join(map(str, sys.version_info[:3])), "pytest": pytest.__version__}
    assert interpreters.versions("other", "pytest", "torch") == {"python": here["python"]}


def test_an_interpreter_is_asked_once_for_the_same_names(tmp_path, bare):
    """However many cases want to know."""
    asked = tmp_path / "asked"
    python = script(tmp_path, f'echo x >> {asked}\nexec {bare} "$@"')
    interpreters = Interpreters({"a": python, "b": python})
    for backend in ("a", "b", "a"):
        interpreters.versions(backend, "torch", "gptqmodel")
    assert asked.read_text() == "x\n"


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME"])
def test_variables_of_this_environment_do_not_reach_another(bare, monkeypatch, variable):
    """PYTHONPATH and PYTHONHOME are about the interpreter that runs pytest."""
    installed_in.cache_clear()
    monkeypatch.setenv(variable, str(Path(pytest.__file__).parents[1]))
    assert set(Interpreters({"a": bare}).versions("a", "pytest", "iniconfig")) == {"python"}


def script(folder, body):
    """A program that pretends to be an interpreter."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit 3", "is not a working Python"),
        ("echo hello", "is not a working Python"),
        ("echo 7", "is not a working Python"),
        ("""echo '{"python": "3.9.18"}'""", "is Python 3.9.18, which is too old"),
        ("""echo '{"python": "2.7.18"}'""", "is Python 2.7.18, which is too old"),
    ],
)
def test_what_is_no_fit_interpreter(tmp_path, body, said):
    """Found before any work, with what it said."""
    with pytest.raises(SpecError, match=said) as caught:
        installed_in(script(tmp_path, body))
    assert "Python 3.10 or later" in str(caught.value)


def test_an_interpreter_that_is_not_there(tmp_path):
    """Missing: unavailable, like a library. A folder or a plain file: a mistake."""
    with pytest.raises(UnavailableError, match="does not exist"):
        installed_in(tmp_path / "python")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UnavailableError, match="a broken symbolic link"):
        installed_in(tmp_path / "link")
    with pytest.raises(SpecError, match="is a folder"):
        installed_in(tmp_path)
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(SpecError, match="cannot be executed"):
        installed_in(tmp_path / "plain")
    (tmp_path / "plain").chmod(0o755)
    with pytest.raises(SpecError, match="does not run"):
        installed_in(tmp_path / "plain")
