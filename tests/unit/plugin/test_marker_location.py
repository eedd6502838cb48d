"""Where a marker stands in its file."""

from textwrap import dedent

import pytest

from pytest_tenpak.plugin.marker_location import marker_line

FILE = dedent("""\
    import pytest
    pytestmark = [pytest.mark.slow, pytest.mark.quantize(method="awq")]
    nf4 = pytest.mark.quantize(method="nf4")

    @pytest.mark.skipif(False,
                        reason="none")
    @pytest.mark.quantize(method="nf4")
    @pytest.mark.quantize(method="int8",
                          threshold=LEVEL)
    async def test_many():
        pass

    @pytest.mark.quantize(method="fp16")
    class TestClass:
        @pytest.mark.parametrize("x", [
            pytest.param(1, marks=pytest.mark.quantize(method="nf4")),
            pytest.param(2, marks=pytest.mark.quantize(method="int8")),
        ])
        def test_parameters(self, x): ...

        def test_of_the_class(self): ...

    class TestInside:
        pytestmark = pytest.mark.quantize(method="gptq")
        class TestInner:
            def test_deep(self): ...

    def test_of_the_module(): ...

    @nf4
    def test_alias(): ...
    """)


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(FILE.splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("test", "arguments", "marker"),
    [
        ("skipif", {"method": "nf4"}, '@pytest.mark.quantize(method="nf4")'),
        ("skipif", {"method": "int8", "threshold": 6.0}, '@pytest.mark.quantize(method="int8"'),
        ("parametrize", {"method": "int8"}, "pytest.param(2"),
        ("test_of_the_class", {"method": "fp16"}, 'method="fp16"'),
        ("test_deep", {"method": "gptq"}, 'method="gptq"'),
        ("test_of_the_module", {"method": "awq"}, "pytestmark = ["),
        ("@nf4", {"method": "nf4"}, "@nf4"),
    ],
)
def test_the_line_is_the_markers_own(tmp_path, test, arguments, marker):
    """Among several decorators, in a parameter, on a class, in a module's pytestmark; an alias is itself."""
    file = tmp_path / "test_a.py"
    file.write_text(FILE)
    assert marker_line(file, line_of(test), "quantize", arguments) == line_of(marker)


def test_another_marker_or_file_leaves_the_tests_own_line(tmp_path):
    """A marker under another name, a file with a fault, no file, a binary one."""
    file = tmp_path / "test_a.py"
    file.write_text(FILE)
    assert marker_line(file, 12, "tenpak_quantize", {"method": "nf4"}) == 12
    for content in (b"def (", b"\xff\xfe\x00", b"\x00"):
        file.write_bytes(content)
        assert marker_line(file, 3, "quantize", {}) == 3
    assert marker_line(tmp_path / "none.py", 3, "quantize", {}) == 3
