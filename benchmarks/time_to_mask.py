"""Minutes of pretraining on a robot's log until attention outlines objects, for recipes of the same model.

    python benchmarks/time_to_mask.py --out runs/time_to_mask --videos cups.mp4 bottles.mp4

The log is rendered (examples/render_table.py, 4000 frames in two bags); masks are evaluated on scenes that were not
trained on. The mask is the paper's: the smallest set of patches that keeps 60% of the attention, averaged over the
heads. `robot_bag` is the shipped recipe; `robot_bag, film` cuts the two global crops from frames up to APART seconds
apart; `robot_bag, distilled` continues `robot_bag` by distilling into the small student of the distillation recipe of
that name; `reference` has the settings of the authors' main_dino.py with the backbone, head
widths and crop sizes of `robot_bag`, for as many minutes. Minutes count the whole run, including its start and the
evaluations that run at the same time. Steadiness is the overlap of each mask with the one before, carried along with
the image's motion, on the demo's recording at 15 Hz; a mask that is always the same is steady too, so read it beside
the IoU. With --videos the first two are also trained on these, which have no labels, and compared by steadiness alone.
Prints a table, and writes OUT/time_to_mask.json and .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dino_ros.demo.table import TABLE
from dino_ros.images.sources import open_source
from dino_ros.masks.maker import MaskMaker
from dino_ros.masks.parameters import ATTENTION
from dino_train.config import DataConfig, EvaluationConfig
from dino_train.evaluation.encoders import TorchEncoder
from dino_train.evaluation.segmentation.jaccard import jaccard_scores
from dino_train.evaluation.segmentation.labeled_images import LabeledImage, labeled_bag
from dino_train.evaluation.segmentation.mask_scores import LabeledFrame, Tally, look, with_motion
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.recipes import CropsConfig, DinoConfig, DinoRecipe, OptimizerConfig, Recipe
from dino_train.recipes.files import load_recipe
from dino_train.training import trainer

matplotlib.use("Agg")
from matplotlib import pyplot

RENDERER = Path(__file__).parents[1] / "examples" / "render_table.py"
BAGS = {"train_11": (11, 1000), "train_12": (12, 1000), "held_out": (2, 100)}
"""Seed and seconds of each bag, at two frames per second."""
IMAGES, MASKS = "/camera/image_raw/compressed", "/ground_truth/mask/compressed"
SIZE = (240, 320)
LEVELS = (0.3, 0.4, 0.5)
APART = 1.0


def render(folder: Path) -> None:
    """Render the bags that do not exist yet."""
    for name, (seed, seconds) in BAGS.items():
        if not (folder / name).exists():
            options = ["--seed", str(seed), "--seconds", str(seconds), "--rate", "2"]
            subprocess.run([sys.executable, str(RENDERER), str(folder / name), *options], check=True)


def reference(like: DinoRecipe, epochs: int) -> DinoRecipe:
    """The reference's defaults with the model, head widths, crop sizes and batch size of `like`.

    K is 4096, which costs 0.4 points of k-NN in the paper (appendix); 65536 would be most of this small model's work.
    The warm-up is a tenth of the run, as are the reference's 10 epochs of 100.
    """
    crops = CropsConfig(like.crops.global_crops_size, like.crops.local_crops_size, 8, (0.4, 1.0), (0.05, 0.4), 1.0)
    dino = DinoConfig(
        out_dim=4096,
        hidden_dim=like.dino.hidden_dim,
        bottleneck_dim=like.dino.bottleneck_dim,
        warmup_teacher_temp=0.04,
        teacher_temp=0.04,
        warmup_teacher_temp_epochs=0,
    )
    optimizer = OptimizerConfig(warmup_epochs=max(round(epochs / 10), 1))
    return dataclasses.replace(like, crops=crops, dino=dino, optimizer=optimizer, epochs=epochs)


def train(recipe: Recipe, data: DataConfig, out: Path) -> None:
    """Run or resume a recipe; keeps a checkpoint of each epoch."""
    if (out / "last.pt").exists():
        trainer.resume_run(out)
    else:
        trainer.train(recipe, data, out, evaluation=EvaluationConfig(every=1))


def curve(
    run: Path, labeled: list[LabeledImage], network: str = "teacher", before: float = 0
) -> list[dict[str, float]]:
    """Minutes (including `before` seconds of an earlier run) and mask IoU of every checkpoint of a run."""
    points = []
    for path in track(sorted(run.glob("epoch_*.pt")), description=f"evaluating {run.name}"):
        checkpoint = load_checkpoint(path)
        scores = jaccard_scores(TorchEncoder(checkpoint_backbone(checkpoint, network), SIZE), labeled)
        points.append(
            {
                "minutes": (before + checkpoint.seconds) / 60,
                "step": checkpoint.step,
                "mean_of_heads": scores.mean_of_heads,
                "best_head": scores.best_head,
            }
        )
    return points


def steadiness(run: Path, recording: Path, topic: str | None = None, network: str = "teacher") -> float:
    """Mean overlap, 0 to 1, of each mask of a recording with the one before, warped by the motion of the image."""
    encoder = TorchEncoder(checkpoint_backbone(load_checkpoint(run / "last.pt"), network), SIZE)
    frames = (
        LabeledFrame(rgb := frame.rgb(), np.zeros(rgb.shape[:2], np.uint8), frame.stamp)
        for frame in open_source(recording, topic)
    )
    tally, maker = Tally(), MaskMaker()
    for frame, origin in with_motion(frames):
        seen = look(encoder, frame.rgb, ["attention"])
        made = maker(seen, frame.rgb.shape[:2], None, frame.stamp, ATTENTION, False)
        tally.add(made.mask > 0, frame, origin)
    return float(np.mean(tally.steadiness))


def of_film(recipe: DinoRecipe) -> DinoRecipe:
    """The recipe with global crops from two frames."""
    return dataclasses.replace(recipe, crops=dataclasses.replace(recipe.crops, seconds_apart=APART))


def reached(points: list[dict[str, float]], level: float) -> str:
    """When a curve first reaches a level."""
    minutes = [point["minutes"] for point in points if point["mean_of_heads"] >= level]
    return f"{minutes[0]:.1f} min" if minutes else "not reached"


def main() -> None:
    """Render, train both recipes, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_mask"))
    parser.add_argument(
        "--videos", type=Path, nargs="*", default=[], help="videos to train on as well, by both recipes"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    render(options.out)
    data = DataConfig([str(options.out / name) for name in BAGS if name != "held_out"], [IMAGES])
    labeled = list(labeled_bag(options.out / "held_out", IMAGES, MASKS))

    recipe = load_recipe("robot_bag")
    assert isinstance(recipe, DinoRecipe)
    train(recipe, data, options.out / "robot_bag")
    train(of_film(recipe), data, options.out / "film")
    last = options.out / "robot_bag" / "last.pt"
    seconds = load_checkpoint(last).seconds
    distill = dataclasses.replace(load_recipe("robot_bag", "distill"), teacher=str(last.absolute()))
    train(distill, data, options.out / "distilled")
    trial = options.out / "reference_trial"  # one epoch, to measure how many fit into the same time
    if not (trial / "last.pt").exists():
        trainer.train(reference(recipe, 1), data, trial, evaluation=EvaluationConfig(every=0))
    epochs = max(round(seconds / load_checkpoint(trial / "last.pt").seconds), 2)
    train(reference(recipe, epochs), data, options.out / "reference")

    curves = {
        "robot_bag": curve(options.out / "robot_bag", labeled),
        "robot_bag, film": curve(options.out / "film", labeled),
        "robot_bag, distilled": curve(options.out / "distilled", labeled, "student", seconds)[1:],
        "reference": curve(options.out / "reference", labeled),
    }
    steady = {
        "robot_bag": steadiness(options.out / "robot_bag", TABLE, IMAGES),
        "robot_bag, film": steadiness(options.out / "film", TABLE, IMAGES),
        "robot_bag, distilled": steadiness(options.out / "distilled", TABLE, IMAGES, "student"),
        "reference": steadiness(options.out / "reference", TABLE, IMAGES),
    }
    of_videos: dict[str, dict[str, float]] = {}
    for name, of_video in {"video": recipe, "video, film": of_film(recipe)}.items() if options.videos else ():
        train(of_video, DataConfig([str(video) for video in options.videos]), options.out / name)
        of_videos[name] = {video.name: steadiness(options.out / name, video) for video in options.videos}
    results = {"curves": curves, "steadiness": steady, "videos": of_videos}
    (options.out / "time_to_mask.json").write_text(json.dumps(results, indent=2))
    table = Table(
        "recipe",
        *(f"IoU {level}" for level in LEVELS),
        "best IoU",
        "at the end",
        "best head",
        "steady",
        "minutes",
        "steps",
    )
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name, points in curves.items():
        ious = [point["mean_of_heads"] for point in points]
        last = points[-1]
        ends = (
            f"{max(ious):.3f}",
            f"{ious[-1]:.3f}",
            f"{last['best_head']:.3f}",
            f"{steady[name]:.3f}",
            f"{last['minutes']:.1f}",
        )
        table.add_row(name, *(reached(points, level) for level in LEVELS), *ends, f"{last['step']:.0f}")
        axes.plot([point["minutes"] for point in points], ious, marker=".", label=name)
    axes.set(xlabel="minutes of pretraining", ylabel="IoU of the mask (mean of heads)", ylim=(0, 0.7))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(options.out / "time_to_mask.png", dpi=150)
    console = Console(width=140)
    console.print(table)
    for name, by_video in of_videos.items():
        console.print(f"{name}: steadiness", ", ".join(f"{video} {value:.3f}" for video, value in by_video.items()))


if __name__ == "__main__":
    main()
