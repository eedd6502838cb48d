"""Options about worker processes and the cache: read once, wrong ones refused before any test."""

import pytest

from pytest_tenpak.store import eviction

GATE = "@pytest.mark.quantize(method='nf4')\ndef test_gate(): pass\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "--tenpak-cache-size=50 gigs",
            ["--tenpak-cache-size: '50 gigs' is not a number of bytes", "*50GB*"],
        ),
        ("--tenpak-memory=-1", ["--tenpak-memory: memory=-1.0 is not accepted*"]),
        (
            "--tenpak-python=envs/bin/python",
            ["--tenpak-python: this is not a list of interpreters*", "*auto-gptq=envs/*"],
        ),
    ],
)
def test_a_wrong_option_is_a_usage_error(project, given, said):
    """It names the option and what is accepted, and nothing has run."""
    project.test(GATE)
    ran = project.run(given)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*{line}" for line in said])


def test_a_wrong_ini_setting_is_named_as_such(project):
    """The message leads to the ini file."""
    project.test(GATE)
    project.ini(**project.settings, cache_size="big")
    ran = project.run()
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["*ini tenpak_cache_size: 'big' is not a number of bytes"])


SEEN = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config):
    from pytest_tenpak.plugin.run_state import open_session
    run = open_session(config).run
    print("seen", run.bounds, run.store.limit_bytes, run.interpreters.python("auto-gptq"))
"""


def test_the_run_has_what_was_asked_for(project):
    """Bounds in seconds and bytes; relative interpreters start at the rootdir; ini over default."""
    project.test(GATE)
    project.pytester.makeconftest(SEEN)
    plain = project.run("--collect-only")
    plain.stdout.fnmatch_lines([f"*seen Bounds(timeout=0.0, memory=0, counts_files=True) {50 * 10**9} None"])
    project.ini(
        **project.settings, cache_size="1GiB", python="\n  auto-gptq=old/python\n  autoawq=/awq/python"
    )
    asked = project.run("--collect-only", "--tenpak-timeout=5", "--tenpak-memory=1.5")
    asked.stdout.fnmatch_lines(
        [
            f"*seen Bounds(timeout=5.0, memory={3 << 29}, counts_files=True) {1 << 30} {project.path}/old/python"
        ]
    )


@pytest.mark.slow
def test_the_cache_stays_within_its_size(project, tmp_path):
    """A second run's checkpoint pushes out the first's, whose gate still passes afterwards."""
    cache = tmp_path / "cache"
    bound = (f"--tenpak-cache-dir={cache}", "--tenpak-cache-size=500KB")
    project.test(GATE)
    project.run(*bound).assert_outcomes(passed=1)
    first = list((cache / "checkpoints").iterdir())
    project.test(GATE.replace("'nf4'", "'nf4', double_quant=True"), name="test_second")
    project.run(*bound, "test_second.py").assert_outcomes(passed=1)
    second = list((cache / "checkpoints").iterdir())
    assert len(first) == len(second) == 1
    assert first != second
    assert eviction.sizes(cache)["checkpoints"] < 500_000
    project.run(*bound, "test_gate.py").assert_outcomes(passed=1)
