"""What the learner says of itself on /diagnostics, and what the page of `dino-ros view` shows of that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from dino_ros.learning.learner import CANDIDATE, RUNNING, Learner
from dino_ros.learning.reservoir import HELD_BACK, TRAINED_ON

MEGABYTE = 1_000_000
NODE = "perception node"
"""The key of the full name of the node whose student is improved."""
GIVEN, OUTCOME = "given student", "outcome of the latest round"
TO_TRAIN_ON, TO_JUDGE_BY, DISK = "images to train on", "images held back", "disk used (MB)"
SCORES = {"agreement": "agreement", "steadiness": "steadiness", "sound": "sound masks"}
"""Scores of a student, and how the page says them."""


def learner_values(learner: Learner) -> dict[str, str]:
    """What a configured learner knows, by key."""
    state, reservoir = learner.state, learner.reservoir
    return {
        "folder": str(reservoir.folder),
        TO_TRAIN_ON: str(reservoir.count(TRAINED_ON)),
        TO_JUDGE_BY: str(reservoir.count(HELD_BACK)),
        DISK: f"{reservoir.size / MEGABYTE:.1f}",
        "round": str(state.round),
        "images kept since it began": str(reservoir.kept - state.kept),
        OUTCOME: state.outcome or "none",
        GIVEN: state.given or "unknown",
        "good student": state.good or "unknown",
        **{
            _key(name, which): f"{value:.3f}"
            for which, scores in state.scores.items()
            for name, value in scores.items()
        },
        "latency without training (ms)": f"{learner.watch.normal:.1f}" if learner.watch.normal else "unknown",
    }


def learner_rows(message: str, values: Mapping[str, str], model: str) -> dict[str, str]:
    """What a person wants to know of it, by name; `model` is the path of the student that runs."""
    rows = {"state": message}
    if TO_TRAIN_ON in values:
        path = PurePath(model)
        is_given = model == values[GIVEN]
        rows["student"] = f"{path.stem}, as given" if is_given else f"{path.parent.name}/{path.stem}"
        rows["images"] = f"{values[TO_TRAIN_ON]} to train on, {values[TO_JUDGE_BY]} held back ({values[DISK]} MB)"
        rows["latest round"] = values[OUTCOME]
    for name, said in SCORES.items():
        if (candidate := values.get(_key(name, CANDIDATE))) is not None:
            rows[said] = f"{candidate} instead of {values[_key(name, RUNNING)]}"
    return rows


def _key(score: str, which: str) -> str:
    return f"{score} of the {which} student"
