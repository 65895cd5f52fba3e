"""Which skips fail the suite, which tests are slow: conftest.py in a suite of its own."""

import re
from pathlib import Path

import pytest
from conftest import SLOW

CONFTEST = (Path(__file__).parent / "conftest.py").read_text().replace('pytest_plugins = ["pytester"]', "")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # each run would import all of hypothesis anew
    pytester.makeconftest(CONFTEST)
    return pytester


EXPECTED = "import pytest\ndef test_it():\n    pytest.skip('no NVIDIA GPU')\n"
UNEXPECTED = "import pytest\ndef test_it():\n    pytest.skip('not today')\n"
MODULE = "import pytest\npytest.importorskip('{}')\ndef test_it(): pass\n"
XFAIL = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n"
PASSED = "def test_it(): pass\n"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (EXPECTED, pytest.ExitCode.OK),
        (UNEXPECTED, pytest.ExitCode.TESTS_FAILED),
        (MODULE.format("launch_ros"), pytest.ExitCode.OK),
        (MODULE.format("no_such_module"), pytest.ExitCode.TESTS_FAILED),
        (XFAIL, pytest.ExitCode.OK),
    ],
)
def test_only_expected_skips_pass(suite: pytest.Pytester, source: str, code: int) -> None:
    suite.makepyfile(test_skipped=source, test_passed=PASSED)
    result = suite.runpytest_inprocess()
    assert result.ret == code
    assert ("unexpected skips" in result.stdout.str()) == (code != pytest.ExitCode.OK)


def test_skips_in_other_processes_count_once(suite: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    suite.makepyfile(test_expected=EXPECTED, test_passed=PASSED)
    suite.makepyfile(test_unexpected=UNEXPECTED, test_module=MODULE.format("no_such_module"))
    result = suite.runpytest_inprocess("-p", "xdist", "--numprocesses", "2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    listed = result.stdout.str().partition("unexpected skips")[2]
    assert sorted(re.findall(r"^test_\w+", listed, re.MULTILINE)) == ["test_module", "test_unexpected"]


def test_the_summary_names_test_and_reason(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_skipped=UNEXPECTED)
    suite.runpytest_inprocess().stdout.fnmatch_lines(["*unexpected skips*", "test_skipped.py::test_it: *not today*"])


def test_skips_can_be_allowed(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_skipped=UNEXPECTED)
    assert suite.runpytest_inprocess("--allow-skips").ret == pytest.ExitCode.OK


def test_slow_tests_are_left_out_on_request(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nmarkers = slow")
    suite.makeconftest(f"{CONFTEST}\nSLOW = ['test_all_long.py', 'test_one_long.py::test_long']")
    suite.makepyfile(test_all_long=PASSED, test_one_long="def test_long(): pass\n" + PASSED)
    suite.runpytest_inprocess("-m", "not slow").assert_outcomes(passed=1, deselected=2)


@pytest.mark.parametrize("entry", SLOW)
def test_what_is_listed_as_slow_exists(entry: str) -> None:
    module, _, test = entry.partition("::")
    source = (Path(__file__).parent / module).read_text()
    assert not test or f"def {test}(" in source
