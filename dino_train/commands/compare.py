"""`dino-train compare`: several recipes on the same data, budget and evaluation."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dino_ros.errors import UserError
from dino_ros.files import check_writable
from dino_train.commands.data_options import add_topic_argument
from dino_train.commands.parser import CommandParser
from dino_train.config import DataConfig, MachineConfig, absolute
from dino_train.ranges import ABOVE_ZERO, RANGES, check_range, check_ranges


def parser() -> ArgumentParser:
    parser = CommandParser(
        description="""\
Run several recipes one after another with the same seed, data, order and
budget, and compare their k-NN accuracy in a table and a plot. Takes the budget
times the number of recipes, and the evaluations. Repeat the command to go on
with an interrupted comparison.

    dino-train compare methods --data photos/ --knn labeled/ --minutes 30
"""
    )
    parser.add_argument(
        "recipes",
        nargs="+",
        type=str,
        help="names of shipped recipes or of shipped lists of runs (methods, ablations), or YAML files of either kind",
    )
    parser.add_argument("--data", nargs="+", required=True, help="bags, folders of images, tar shards, videos")
    add_topic_argument(parser)
    parser.add_argument("--knn", type=str, required=True, help="folder with train/<class>/ and val/<class>/ images")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/compare"),
        help="folder of the runs and the results; a new one for each comparison",
    )
    parser.add_argument(
        "--images",
        type=int | None,
        help="budget: number of images that each run sees, to compare what recipes learn from the same",
    )
    parser.add_argument(
        "--minutes",
        type=float | None,
        help="budget: training time of each run, from its speed in a short trial; to compare what this machine can do",
    )
    parser.add_argument(
        "--points", type=int, default=6, help="evaluations of each run after its start; more for a finer curve"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of all runs; repeat with another to see what is chance"
    )
    parser.add_argument("--machine", type=MachineConfig, default=MachineConfig(), help="settings of the machine")
    return parser


def run(options: Namespace) -> None:
    import dataclasses

    from dino_train.compare.plan import read_runs
    from dino_train.compare.results import PLOT_NAME, RESULTS_NAME, write_results
    from dino_train.compare.runs import SharedSettings, run_all

    if (options.images is None) == (options.minutes is None):
        raise UserError("A comparison needs one budget: give either --images N or --minutes N.")
    for name in ("images", "minutes", "points"):
        check_range(f"--{name}", options[name], ABOVE_ZERO)
    check_range("--seed", options.seed, RANGES["seed"])
    check_ranges(options.machine, "machine")
    check_writable(options.out)
    recipes = {name: dataclasses.replace(r, seed=options.seed) for name, r in read_runs(options.recipes).items()}
    data = DataConfig(options.data, options.topic).absolute()
    shared = SharedSettings(
        data, absolute(options.knn), options.machine, options.images, options.minutes, options.points
    )
    budget = f"{options.images:,} images" if options.images else f"{options.minutes:g} minutes"
    title = f"k-NN on {Path(options.knn).name} after {budget} each"
    run_all(recipes, shared, options.out, lambda: write_results(title, options.out, recipes))
    print(f"Results: {options.out / RESULTS_NAME} and {options.out / PLOT_NAME}; reports: {options.out}/*/report.html.")
