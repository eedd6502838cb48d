"""`tenpak doctor`: what is installed, what can run here, and why not."""

import os
import subprocess
import sys

import pytest

from pytest_tenpak.cli.main import COMMANDS, main


def test_the_doctor_lists_methods_backends_and_what_is_missing(project):
    """Ours and a conftest's, with the pip line for what is not there; no test runs."""
    project.pytester.makeconftest(
        "from pytest_tenpak import Quantizer\n"
        "class Own(Quantizer):\n"
        "    method = 'own'\n"
        "    requires = ('no-such-library',)\n"
        "    def quantize(self, job): ...\n"
        "def pytest_tenpak_register_quantizers(register): register(Own)\n"
    )
    project.test("def test_it(): raise AssertionError\n")
    result = project.run("--tenpak-doctor")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "python 3.*, pytest-tenpak *, torch *, transformers *",
            "device: *",
            "cache: *",
            "method *backend *version *runs here *why not, or where",
            "gptq *auto-gptq *",
            "int8 *bitsandbytes *yes*",
            "own *no-such-library *no *no-such-library not installed: pip install no-such-library",
        ]
    )
    assert "test_it" not in result.stdout.str()


def test_the_doctor_asks_the_interpreter_that_was_named(project, tmp_path):
    """Its backend runs there, or is said to be missing there; a wrong path is said too."""
    project.ini(**project.settings, python=f"bitsandbytes={sys.executable}, auto-gptq={tmp_path}/none")
    lines = project.run("--tenpak-doctor").stdout
    lines.fnmatch_lines(
        ["gptq *auto-gptq *no *the interpreter */none does not exist*", "nf4 *bitsandbytes *yes*"]
    )


def test_an_environment_without_bytecode_is_said(project, tmp_path):
    """Where nothing was compiled and nothing is kept; not where bytecode is there, or will be."""

    def said(**variables) -> bool:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest_tenpak", "doctor"],
            cwd=project.path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **variables},
            capture_output=True,
            text=True,
        )
        assert "cache: " in ran.stdout
        return "bytecode: none of torch, and none is kept (PYTHONDONTWRITEBYTECODE is set)" in ran.stdout

    elsewhere = {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    assert said(**elsewhere, PYTHONDONTWRITEBYTECODE="1")
    assert not said(**elsewhere)
    assert not said()


@pytest.mark.parametrize(
    "command", [["-m", "pytest_tenpak"], ["-c", "from pytest_tenpak.cli.main import main; main()"]]
)
def test_the_command_reads_the_suites_ini(project, command):
    """`tenpak doctor` and `python -m pytest_tenpak doctor` know the cache folder of the ini."""
    project.ini(cache_dir="own-cache")
    ran = subprocess.run(
        [sys.executable, *command, "doctor"], cwd=project.path, capture_output=True, text=True
    )
    assert f"cache: {project.path}/own-cache (empty)" in ran.stdout


def test_a_command_that_does_not_exist_is_named():
    """With those that do."""
    ran = subprocess.run([sys.executable, "-m", "pytest_tenpak", "nurse"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "doctor" in ran.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capsys):
    """Also those whose further options go to pytest."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: tenpak {command}")
