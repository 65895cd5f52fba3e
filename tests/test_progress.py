"""What a terminal, or a log, shows of what takes long."""

import logging
from itertools import count
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from dino_train.cli import Once
from dino_train.machine import progress
from dino_train.machine.progress import watched
from dino_train.runs.progress import progress_bar, summary

LINE = {
    "step": 10,
    "loss": 4.0,
    "teacher_entropy": 2.0,
    "kl": 2.0,
    "marginal_entropy": 5.5,
    "effective_rank": 30.0,
    "lr": 1e-3,
    "teacher_temp": 0.04,
    "momentum_teacher": 0.996,
    "gradient_norm": 1.0,
    "images_per_second": 120.0,
}


def test_the_line_shows_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(0, 3, shown=True) as advance:
        advance({})
        advance(LINE)
    for part in ("loss 4.00", "KL 2.00", "1.0e-03", "0.040", "EMA 0.9960", "gradient 1.00", "120 images/s"):
        assert part in summary(LINE)
    assert "2/3" in capsys.readouterr().err


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_log_says_how_long_a_loop_takes(
    level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten steps of 20 s, the first of which does not count."""
    seconds = count(0, 20)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with caplog.at_level(level, "dino_train"):
        assert list(watched("abcdefghij", "looking", 10)) == [*"abcdefghij"]
    lines = ["looking: 2 of 10, 3 min left", "looking: 6 of 10, 80 s left"]
    assert caplog.messages == (lines if level == logging.INFO else [])


def test_what_was_said_is_not_said_again() -> None:
    once = Once()
    records = [logging.makeLogRecord({"msg": "left out %s", "args": (topic,)}) for topic in ("/a", "/b", "/a")]
    assert [once.filter(record) for record in records] == [True, True, False]
