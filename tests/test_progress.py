"""Warnings in plain words when self-distillation goes wrong, and none when it goes well."""

import pytest

pytest.importorskip("torch")

from dino_train.recipes import ByolRecipe, DinoConfig, DinoRecipe, MocoConfig, MocoRecipe
from dino_train.runs.health import HealthMonitor
from dino_train.runs.progress import progress_bar, summary

HEALTHY = {
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


def warnings(lines: list[dict[str, float]], window: int = 5) -> list[str]:
    monitor = HealthMonitor(DinoRecipe(dino=DinoConfig(out_dim=1024)), window)
    return [warning for line in lines if (warning := monitor.check(line))]


@pytest.mark.parametrize(
    ("wrong", "sentence", "advice"),
    [
        (
            {"loss": 6.92, "teacher_entropy": 6.9, "marginal_entropy": 6.93},
            "stays at that of chance, 6.93",
            "temperature_start",
        ),
        ({"loss": 0.5, "teacher_entropy": 0.4, "marginal_entropy": 0.45}, "every image the same output", "raise"),
        ({"effective_rank": 1.3}, "fill 1.3 directions", "lower optimizer.lr"),
    ],
)
def test_each_collapse_is_named_once(wrong: dict[str, float], sentence: str, advice: str) -> None:
    said = warnings([{**HEALTHY, **wrong}] * 20)
    assert len(said) == 1
    assert sentence in said[0]
    assert advice in said[0]


def test_methods_without_a_distribution_are_watched_by_their_spread() -> None:
    line = {"step": 10, "loss": 0.01, "embedding_std": 0.8, "effective_rank": 30.0}
    monitor = HealthMonitor(ByolRecipe(), 5)
    assert [monitor.check(line) for _ in range(10)] == [None] * 10
    said = [monitor.check({**line, "embedding_std": 0.02}) for _ in range(10)]
    assert [one for one in said if one] == [said[4]]
    assert "spread 0.02" in said[4]
    assert "byol.momentum" in said[4]
    stuck = HealthMonitor(MocoRecipe(moco=MocoConfig(queue=999)), 5)
    said = [stuck.check({**line, "loss": 6.9}) for _ in range(10)]
    assert "stays at that of chance, 6.91" in str(said[4])


def test_nothing_is_said_of_health_or_of_a_passing_dip() -> None:
    stuck = {**HEALTHY, "loss": 6.92, "teacher_entropy": 6.9, "marginal_entropy": 6.93}
    assert warnings([HEALTHY] * 20) == []
    assert warnings([stuck] * 4 + [HEALTHY] + [stuck] * 4) == [], "the first steps of every run look like this"
    assert len(warnings([stuck] * 6 + [{**HEALTHY, "loss": 0.4, "marginal_entropy": 2.01}] * 6)) == 2


def test_the_line_shows_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(0, 3, shown=True) as advance:
        advance({})
        advance(HEALTHY)
    for part in ("loss 4.00", "KL 2.00", "1.0e-03", "0.040", "EMA 0.9960", "gradient 1.00", "120 images/s"):
        assert part in summary(HEALTHY)
    assert "2/3" in capsys.readouterr().err
