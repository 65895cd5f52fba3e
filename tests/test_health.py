"""Whether a run learns: the warnings while it trains and the report afterwards, from the same lines of the log."""

import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from run_folders import evaluation, log_line, make_run

from dino_train.recipes import Recipe
from dino_train.recipes.files import parse_recipe
from dino_train.runs.folder import read_run
from dino_train.runs.health import START, WINDOW, Health, HealthMonitor, classify, health_summary, remedy

LN_K = math.log(1024)
DINO = {"dino": {"out_dim": 1024}}
MOCO = {"moco": {"queue": 99}, "batch_size": 16}
SWAV = {"swav": {"prototypes": 32}}
DISTRIBUTION = {"loss": 4.0, "teacher_entropy": 2.0, "kl": 2.0, "marginal_entropy": 5.5, "effective_rank": 30.0}
CONTRASTIVE = {"loss": 1.2, "contrastive_accuracy": 0.7, "embedding_std": 0.8, "effective_rank": 30.0}
REGRESSION = {"loss": 0.4, "embedding_std": 0.9, "effective_rank": 30.0}
AGREEMENT = {"loss": 0.4, "cosine": 0.9, "cls_cosine": 0.9, "attention_kl": 0.1, "effective_rank": 30.0}

RUNS = [
    (DINO, DISTRIBUTION, {}, Health.LEARNING),
    (DINO, DISTRIBUTION, {"loss": LN_K, "teacher_entropy": LN_K, "marginal_entropy": LN_K}, Health.UNIFORM),
    (DINO, DISTRIBUTION, {"loss": LN_K, "teacher_entropy": 0.5}, Health.UNIFORM),
    (DINO, DISTRIBUTION, {"loss": 0.5, "teacher_entropy": 0.4, "marginal_entropy": 0.45}, Health.COLLAPSED),
    (DINO, DISTRIBUTION, {"loss": 3.5, "teacher_entropy": 3.4, "marginal_entropy": 3.49}, Health.COLLAPSED),
    (DINO, DISTRIBUTION, {"loss": 3.5, "teacher_entropy": 3.4, "marginal_entropy": 3.51}, Health.LEARNING),
    (DINO, DISTRIBUTION, {"effective_rank": 1.3}, Health.LOW_RANK),
    (DINO, DISTRIBUTION, {"loss": math.nan}, Health.NOT_FINITE),
    ({"byol": {}}, REGRESSION, {}, Health.LEARNING),
    ({"byol": {}}, REGRESSION, {"loss": 0.0, "embedding_std": 0.02}, Health.COLLAPSED),
    ({"byol": {}}, REGRESSION, {"loss": math.inf}, Health.NOT_FINITE),
    (MOCO, CONTRASTIVE, {}, Health.LEARNING),
    (MOCO, CONTRASTIVE, {"loss": 4.6, "contrastive_accuracy": 0.0}, Health.UNIFORM),
    (MOCO, CONTRASTIVE, {"embedding_std": 0.02}, Health.COLLAPSED),
    (SWAV, DISTRIBUTION, {"loss": 2.0, "teacher_entropy": 1.0, "marginal_entropy": 3.4}, Health.LEARNING),
    (SWAV, DISTRIBUTION, {"loss": 3.46, "teacher_entropy": 3.46, "marginal_entropy": 3.46}, Health.UNIFORM),
    ({"distill": {}}, AGREEMENT, {}, Health.LEARNING),
    ({"distill": {}}, AGREEMENT, {"effective_rank": 1.1}, Health.LOW_RANK),
]


def recipe_of(values: dict[str, object]) -> Recipe:
    return parse_recipe(values, "recipe.yaml", "distill" if "distill" in values else "pretrain")


def as_log(lines: list[dict[str, float]]) -> str:
    return "".join(json.dumps({"step": 10 * n, "epoch": n / 10, **line}) + "\n" for n, line in enumerate(lines, 1))


def warnings(recipe: dict[str, object], lines: list[dict[str, float]], steps: int = 10 * WINDOW) -> list[str]:
    """The warnings of a run of so many steps, with a line for every ten."""
    monitor = HealthMonitor(recipe_of(recipe), steps)
    numbered = ({"step": 10.0 * number, **line} for number, line in enumerate(lines, 1))
    return [warning for line in numbered if (warning := monitor.check(line))]


def report(tmp_path: Path, recipe: dict[str, object], lines: list[dict[str, float]]) -> str:
    return health_summary(read_run(make_run(tmp_path / "run", as_log(lines), recipe=json.dumps(recipe))))


@pytest.mark.parametrize(("recipe", "line", "changes", "expected"), RUNS)
def test_warning_and_report_agree(
    tmp_path: Path,
    recipe: dict[str, object],
    line: dict[str, float],
    changes: dict[str, float],
    expected: Health,
) -> None:
    """Both name the failure, if there is one, with the same sentence and the advice that the method has for it."""
    lines = [{**line, **changes}] * (WINDOW + 5)
    assert classify(lines, recipe_of(recipe).chance_loss) is expected
    warned, reported = warnings(recipe, lines), report(tmp_path, recipe, lines)
    if expected is Health.LEARNING:
        assert warned == []
        assert "If this persists" not in reported
        return
    assert len(warned) == 1, "once"
    assert remedy(expected, recipe_of(recipe)) in warned[0]
    sentence, advice = warned[0].split(" Try this: ")
    assert sentence in reported
    assert advice in reported


def test_every_line_of_the_window_must_show_the_failure() -> None:
    """The first steps of every run look uniform, and a healthy run may dip."""
    stuck = {**DISTRIBUTION, "loss": LN_K, "teacher_entropy": 6.9, "marginal_entropy": 6.93}
    long = 10_000
    assert warnings(DINO, ([stuck] * (WINDOW - 1) + [DISTRIBUTION]) * 33, long) == []
    collapsed = {**DISTRIBUTION, "loss": 0.4, "marginal_entropy": 2.01}
    failing = [stuck] * 500 + [collapsed] * WINDOW + [stuck] * WINDOW
    assert len(warnings(DINO, failing, long)) == 2, "each failure once"


@pytest.mark.parametrize("steps", [60, 210, 1000, 100_000])
def test_a_run_of_any_length_is_warned_of_before_it_ends(steps: int) -> None:
    """By its progress, so that the log of a small bag gets there; and not while every run looks uniform."""
    lines = steps // 10
    stuck = {**DISTRIBUTION, "loss": LN_K, "teacher_entropy": 6.9, "marginal_entropy": 6.93}
    early, later = int(START * lines) - 1, int(0.5 * lines) + 1
    assert warnings(DINO, [stuck] * early, steps) == []
    assert len(warnings(DINO, [stuck] * later, steps)) == 1
    assert warnings(DINO, [stuck] * early + [DISTRIBUTION] * (lines - early), steps) == []


@pytest.mark.parametrize("count", [6, 12, 21, 100])
def test_the_verdict_does_not_praise_a_loss_at_chance(tmp_path: Path, count: int) -> None:
    """Seen: a loss that rises above ln K, 5.55, while the outputs of images differ by 0.8 nats; and one that swings."""
    recipe = {"dino": {"out_dim": 256}}
    spread = {"teacher_entropy": 2.6, "marginal_entropy": 3.4, "effective_rank": 20.0}
    rising = [2.97, 4.83, 5.45, 5.66, 5.83, 5.82]
    for number, losses in enumerate(
        (rising[: count // 2] + [5.8] * (count - len(rising[: count // 2])), [5.2, 6.1] * (count // 2))
    ):
        (tmp_path / str(number)).mkdir()
        said = report(tmp_path / str(number), recipe, [{**spread, "loss": loss} for loss in losses])
        assert "nothing is learned" in said, losses
        assert "apart" not in said
    (tmp_path / "learns").mkdir()
    falling = [{**spread, "loss": 5.8 - 3 * number / count} for number in range(count + 1)]
    assert "tells images apart" in report(tmp_path / "learns", recipe, falling)


def test_what_a_line_does_not_tell_is_no_failure(tmp_path: Path) -> None:
    """A log of another version, or beside a recipe that cannot be read."""
    assert classify([], LN_K) is Health.LEARNING
    assert classify([{"step": 1}] * WINDOW, LN_K) is Health.LEARNING
    assert classify([{"loss": LN_K}] * WINDOW, None) is Health.LEARNING
    collapsed = as_log([{**DISTRIBUTION, "marginal_entropy": 2.01}] * 3)
    run = read_run(make_run(tmp_path / "run", collapsed, recipe="dino: ["))
    assert "same output" in health_summary(run)


@pytest.mark.parametrize(
    ("recipe", "line", "numbers"),
    [
        (DINO, {**DISTRIBUTION, "teacher_entropy": 2.3}, ["5.5 nats", "6.9", "2.3", "2.00 nats"]),
        (MOCO, CONTRASTIVE, ["1.20", "4.61", "70.0%", "0.80"]),
        ({"byol": {}}, REGRESSION, ["0.40", "0.90"]),
        ({"dino": {}, "byol": {}}, REGRESSION, ["0.40", "0.90"]),
        ({"distill": {}}, AGREEMENT, ["0.40", "0.900", "0.10 nats"]),
    ],
)
def test_the_report_gives_the_numbers_of_the_method(
    tmp_path: Path, recipe: dict[str, object], line: dict[str, float], numbers: list[str]
) -> None:
    said = report(tmp_path, recipe, [line] * 19)
    for value in numbers:
        assert value in said
    assert ("images apart" in said) == ("cosine" not in line)


@pytest.mark.parametrize(
    ("evaluations", "said"),
    [
        (evaluation(0, 0.12), "12.0% of 664 labeled images .* random ViT .step 0., before any training"),
        (
            evaluation(0, 0.12) + evaluation(5, 0.42) + evaluation(10, 0.4),
            "40.0% .* epoch 10, 12.0% .* better than its start; .* 42.0% at epoch 5",
        ),
        (evaluation(0, 0.105) + evaluation(5, 0.107), "10.5% .* too small"),
        (evaluation(0, 0.2) + evaluation(5, 0.1), "20.0% .* worse than its start"),
        (evaluation(0, 0.9) + evaluation(5, 0.1) + evaluation(0, 0.12), "10.0% .* epoch 5, 12.0% "),
        (evaluation(5, 0.42), "42.0% .* epoch 5"),
    ],
)
def test_k_nn_is_compared_with_the_start(tmp_path: Path, evaluations: str, said: str) -> None:
    assert re.search(said, health_summary(read_run(make_run(tmp_path / "run", log_line(10), evaluations))))


@pytest.mark.parametrize("recipe", ["init: weights.pth\n", "backbone: {pretrained: true}\n"])
def test_a_start_that_is_not_random_is_not_called_so(tmp_path: Path, recipe: str) -> None:
    run = make_run(tmp_path / "run", log_line(10), evaluation(0, 0.5) + evaluation(1, 0.6), recipe)
    assert re.search("50.0% with the start: better", health_summary(read_run(run)))
