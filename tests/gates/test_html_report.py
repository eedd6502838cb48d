"""--tenpak-html in a run: refused before any gate where it cannot be made, written once where it can."""

import pytest

GATE = """
import pytest

@pytest.mark.quantize(method="fp16")
def test_fp16(): pass
"""


def test_without_jinja2_the_option_is_refused_before_any_gate(pytester):
    """The error names the extra that has it, and no test ran."""
    pytester.makepyfile(GATE)
    pytester.makeconftest("import sys\nsys.modules['jinja2'] = None\n")
    ran = pytester.runpytest_subprocess("--tenpak-html=report.html")
    assert ran.ret == 4
    ran.stderr.fnmatch_lines(["*--tenpak-html: an HTML report needs the jinja2 library*"])
    ran.stderr.fnmatch_lines(["*pip install 'pytest-tenpak[[]report]'*"])
    ran.stdout.no_fnmatch_line("*1 *ed*")
    assert not (pytester.path / "report.html").exists()


@pytest.mark.slow
def test_a_run_writes_its_page(project, distributed):
    """With the figures of this very run, from one process or several."""
    project.test(GATE)
    project.run("--tenpak-html=out/report.html", *distributed).assert_outcomes(passed=1)
    page = (project.path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The gate passed" in page
    assert "baselines/test_gate/test_fp16.json" in page
