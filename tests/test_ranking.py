"""Place recognition and its scores: scikit-learn, cases by hand, and a student whose embedding is a mean color."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_ros.errors import UserError
from dino_train.cli import run
from dino_train.evaluation.ranking.ground_truth import GroundTruth, Query, read_ground_truth
from dino_train.evaluation.ranking.ranking_scores import average_precision, ranking_scores


def test_average_precision_is_the_area_under_scikit_learns_curve() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(50):
        relevant = rng.random(30) < 0.3
        if not relevant.any():
            continue
        precision, recall, _ = metrics.precision_recall_curve(relevant, -np.arange(30))
        assert average_precision(relevant) == pytest.approx(metrics.auc(recall, precision))
        # The area by steps instead of trapezoids is another number, but for long rankings a close one.
        assert average_precision(relevant) == pytest.approx(
            metrics.average_precision_score(relevant, -np.arange(30)), abs=0.15
        )


def truth(queries: list[Query], *database: str) -> GroundTruth:
    return GroundTruth(Path(), queries, list(database))


def at_angles(*degrees: float) -> np.ndarray:
    """Vectors of any length whose cosine falls with the difference of their angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.linspace(1, 9, len(degrees))[:, None]


def query(name: str, positives: set[str], ignored: set[str] = frozenset()) -> Query:  # type: ignore[assignment]
    return Query(name, frozenset(positives), frozenset(ignored))


def test_ignored_images_are_taken_out_of_the_ranking() -> None:
    """The ranking is d, a, b, c; without d it is a, b, c."""
    vectors = at_angles(0, 10, 20, 30, 5)
    plain = ranking_scores(truth([query("q", {"a", "c"})], *"abcd"), vectors)
    # Found at the second and the fourth place: (0 + 1/2) / 2 and (1/3 + 2/4) / 2.
    assert plain.mean_average_precision == pytest.approx((0.25 + 5 / 12) / 2)
    assert plain.recall == {1: 0.0, 5: 1.0, 10: 1.0}
    ignoring = ranking_scores(truth([query("q", {"a", "c"}, {"d"})], *"abcd"), vectors)
    # At the first and the third: (1 + 1) / 2 and (1/2 + 2/3) / 2.
    assert ignoring.mean_average_precision == pytest.approx((1 + 7 / 12) / 2)
    assert ignoring.recall == {1: 1.0, 5: 1.0, 10: 1.0}


def test_scores_are_means_over_queries_and_none_finds_itself() -> None:
    """q is a positive of p and so in the database, but not for itself."""
    queries = [query("q", {"p"}), query("p", {"q"})]
    vectors = at_angles(0, 40, 40, 0, *range(10, 22))
    others = [f"other{i}" for i in range(12)]
    scores = ranking_scores(truth(queries, "p", "q", *others), vectors)
    # Both others' angles lie between: p is 13th for q, and q is 13th for p.
    assert scores.mean_average_precision == pytest.approx((0 + 1 / 13) / 2)
    assert scores.recall == {1: 0.0, 5: 0.0, 10: 0.0}
    nearer = ranking_scores(truth(queries, "p", "q", *others), at_angles(0, 40, 40, 0, *range(45, 57)))
    assert nearer.mean_average_precision == pytest.approx((1 + (0 + 1 / 13) / 2) / 2)
    assert nearer.recall == {1: 0.5, 5: 0.5, 10: 0.5}


def test_collapsed_embeddings_score_nothing_for_the_order_of_names() -> None:
    """All are equally similar: the one positive comes last, whatever its name."""
    for vectors in (np.ones((5, 3), np.float32), np.zeros((5, 3), np.float32)):
        for positive in "abcd":
            scores = ranking_scores(truth([query("q", {positive})], *"abcd"), vectors)
            assert scores.mean_average_precision == pytest.approx(1 / 8)
            assert scores.recall[1] == 0


def write_colors(folder: Path, colors: dict[str, tuple[int, int, int]]) -> Path:
    """Images of one RGB color each."""
    for name, color in colors.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((20, 30, 3), color[::-1], np.uint8))
    return folder


COLORS = {
    "queries/red.png": (250, 60, 40),
    "queries/blue.png": (30, 50, 240),
    "red.png": (240, 50, 30),
    "pink.png": (250, 90, 90),
    "blue.png": (40, 40, 230),
    "green.png": (40, 220, 60),
}


def test_retrieval_ranks_whole_images(tmp_path: Path, student: Path) -> None:
    folder = write_colors(tmp_path / "places", COLORS)
    entries = {"queries/red.png": {"positives": ["pink.png"]}, "queries/blue.png": {"positives": ["blue.png"]}}
    (tmp_path / "truth.json").write_text(json.dumps(entries))
    command = ["evaluate", "retrieval", str(student), "--data", str(folder), "--truth", str(tmp_path / "truth.json")]
    run([*command, "--out", str(tmp_path / "scores.json")])
    (row,) = json.loads((tmp_path / "scores.json").read_text())["rows"]
    # Red is nearer to the red query than pink is: (0 + 1/2) / 2, and blue is found at once.
    assert row["mAP"] == pytest.approx((0.25 + 1) / 2)
    assert (row["recall@1"], row["recall@5"]) == (0.5, 1.0)
    entries["queries/red.png"]["ignored"] = ["red.png"]
    (tmp_path / "truth.json").write_text(json.dumps(entries))
    run([*command, "--out", str(tmp_path / "scores.json")])
    assert json.loads((tmp_path / "scores.json").read_text())["rows"][0]["mAP"] == 1.0


def test_the_database_is_every_image_that_is_no_query_or_is_a_positive(tmp_path: Path) -> None:
    folder = write_colors(tmp_path / "places", COLORS)
    entries = {"queries/red.png": {"positives": ["queries/blue.png"]}, "queries/blue.png": {"positives": ["blue.png"]}}
    (tmp_path / "truth.json").write_text(json.dumps(entries))
    found = read_ground_truth(folder, tmp_path / "truth.json")
    assert found.database == ["blue.png", "green.png", "pink.png", "queries/blue.png", "red.png"]
    assert found.files[:2] == [folder / "queries/red.png", folder / "queries/blue.png"]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("{", "is not a ground truth"),
        ([], "is not a ground truth"),
        ({}, "names no query"),
        ({"red.png": ["pink.png"]}, "is not a ground truth"),
        ({"red.png": {"positives": "pink.png"}}, "is not a ground truth"),
        ({"red.png": {"positives": [["pink.png"]]}}, "is not a ground truth"),
        ({"red.png": {"positives": []}}, "red.png has no positives"),
        ({"red.png": {"positives": ["gone.png"]}}, "gone.png, named by the query red.png"),
        ({"gone.png": {"positives": ["red.png"]}}, "gone.png, named by the query gone.png"),
        ({"red.png": {"positives": ["pink.png"], "ignored": ["gone.png"]}}, "gone.png, named by the query red.png"),
        ({"red.png": {"positives": ["red.png"]}}, "red.png is a positive of red.png"),
        ({"red.png": {"positives": ["pink.png"], "ignored": ["pink.png"]}}, "pink.png is a positive of red.png"),
    ],
)
def test_a_ground_truth_that_cannot_be_used_gets_one_sentence(tmp_path: Path, entries: Any, sentence: str) -> None:
    folder = write_colors(tmp_path / "places", COLORS)
    (tmp_path / "truth.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    with pytest.raises(UserError, match=sentence):
        read_ground_truth(folder, tmp_path / "truth.json")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="places is not a folder"):
        read_ground_truth(tmp_path / "places", tmp_path / "truth.json")
    with pytest.raises(UserError, match=r"truth\.json cannot be read"):
        read_ground_truth(tmp_path, tmp_path / "truth.json")
