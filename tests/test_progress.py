"""What a terminal shows of a run while it trains."""

import pytest

pytest.importorskip("torch")

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
