"""``--tenpak-methods``: one suite, of which each job of a matrix runs the gates of some methods."""

import pytest
from projects import LEAN

SUITE = """
@pytest.mark.quantize(method="nf4")
@pytest.mark.quantize(method="int8")
def test_two(): pass

@pytest.mark.quantize(method="gptq-quality")
def test_preset(): pass

@pytest.mark.quantize(checkpoint="made/elsewhere")
def test_checkpoint(): pass

def test_plain(): pass
"""


@pytest.fixture
def collected(pytester):
    """Names of the tests that pytest collects with ``--tenpak-methods``."""
    pytester.makepyfile("import pytest\n" + SUITE)

    def collect(methods, *args):
        result = pytester.runpytest_subprocess(
            *LEAN, "--collect-only", "-q", f"--tenpak-methods={methods}", *args
        )
        return {line.partition("::")[2] for line in result.outlines if "::" in line}, result

    return collect


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("nf4", {"test_two[nf4]"}),
        ("nf4, int8", {"test_two[nf4]", "test_two[int8]"}),
        ("gptq", {"test_preset"}),
        ("gptq-quality", {"test_preset"}),
        ("gptq-size", set()),
        ("checkpoint", {"test_checkpoint"}),
        ("", {"test_two[nf4]", "test_two[int8]", "test_preset", "test_checkpoint", "test_plain"}),
    ],
)
def test_the_gates_of_the_methods_named_are_what_runs(collected, methods, expected):
    """Of several markers on one test only those of the methods; a method names its presets too; no plain test."""
    names, result = collected(methods)
    assert names == expected
    assert result.ret == (pytest.ExitCode.OK if expected else pytest.ExitCode.NO_TESTS_COLLECTED)


@pytest.mark.parametrize("distribution", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_method_that_does_not_exist_ends_the_run(pytester, distribution):
    """A slip would otherwise leave out every gate; the error names the option and the nearest method."""
    pytester.makepyfile("import pytest\n" + SUITE)
    result = pytester.runpytest_subprocess(*LEAN, "--tenpak-methods=int9", *distribution)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--tenpak-methods: there is no method 'int9'; did you mean 'int8'?*"])


def test_gates_left_out_are_not_expected(project):
    """The count in the summary is that of the gates that were to run."""
    project.test(
        "@pytest.mark.quantize(method='nf4')\n@pytest.mark.quantize(method='int8')\ndef test_it(): pass\n"
    )
    result = project.run("--tenpak-methods=nf4")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["*1 gate expected, 1 ran*"])
