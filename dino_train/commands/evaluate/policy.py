"""`dino-train evaluate policy`: clone a scripted expert on frozen features, and count how often the clone succeeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from dino_train.commands.evaluate.encoder_options import add_encoder_arguments, open_named_encoders
from dino_train.commands.parser import CommandParser

if TYPE_CHECKING:
    from dino_train.evaluation.policy.trials import PolicyScore
    from dino_train.evaluation.scores import Scores


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Are the features of use to an arm? A simulated Franka Panda is shown by a
scripted expert how to reach for a cube, to push it onto a mark and to pick it
up; a small network learns from these demonstrations what to do, from its
joints and from where in the image the frozen patch tokens are what it looks
for; it is tried in scenes that no demonstration has. Prints the share of trials
that succeed and its standard error, beside those of the expert, of policies
that see the true place of the cube, plain pixels, or nothing. Needs
pip install 'dino_ros[simulation]'.

    dino-train evaluate policy student.onnx random --task reach --trials 20
"""
    )
    add_encoder_arguments(parser, size="224x224")
    parser.add_argument(
        "--task",
        nargs="+",
        type=Literal["reach", "push", "pick"],
        default=["reach", "push", "pick"],
        help="reach takes the least time",
    )
    parser.add_argument("--demonstrations", type=PositiveInt, default=50, help="more of them make better policies")
    parser.add_argument("--trials", type=PositiveInt, default=50, help="more of them make the standard error smaller")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="another one is another set of scenes")
    parser.add_argument("--pictures", type=Path | None, help="folder for a film strip of everyone's first trial")
    return parser


def run(options: Namespace) -> None:
    from dino_train.evaluation.policy.trials import evaluate_policies
    from dino_train.evaluation.scores import show

    scores = evaluate_policies(
        open_named_encoders(options),
        options.task,
        options.demonstrations,
        options.trials,
        options.seed,
        options.pictures,
    )
    rows = [row(score) for score in scores]
    show(f"{options.trials} trials after {options.demonstrations} demonstrations", rows, options.out)


def row(score: PolicyScore) -> Scores:
    return {
        "task": score.task,
        "encoder": score.encoder,
        "success": score.success,
        "standard error": score.standard_error,
        "minutes": score.seconds / 60,
    }
