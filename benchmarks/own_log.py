r"""Masks on real video, before and after some minutes with one's own log on two cores, without labels.

    python benchmarks/own_log.py --encoder encoder.safetensors --size 196x350 --truth davis2016 \
        --log cups.mp4 bottles.mp4 --varied pretrain

The log is the first half of each scene in --truth, and --log. The scores are those of the last 40% of each scene, of
which nothing was trained on. Masks are never looked at before that: the log's folder, OUT/log, has none. Every arm is
what a user would do with `dino-train`, within --minutes from the encoder's weights to a file for the robot:

* the encoder as exported, with the paper's mask, and with the method that the node takes by itself;
* a foreground head learned on the log;
* three quarters of the encoder's blocks, distilled on the log for as many steps as fit; that student; a head for it;
* the encoder, adapted to the log by the recipe `adapt` for as many steps as fit;
* a head learned on --varied images instead.

Minutes are those of two cores: the CPU time of all threads, halved, so that other work on the machine does not count.
Prints a table. Writes OUT/own_log.json as each arm ends, and OUT/own_log.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dino_ros.errors import UserError
from dino_ros.files import write_whole
from dino_ros.images.overlay import overlay
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.parameters import ATTENTION, MaskParameters
from dino_ros.perception.perceiver import Perceiver
from dino_train.config import DataConfig, EvaluationConfig, MachineConfig, absolute, parse_size
from dino_train.data.frames import open_frames
from dino_train.data.selection import SelectionParameters
from dino_train.evaluation.segmentation.labeled_images import VOID, read_labeled
from dino_train.evaluation.segmentation.mask_scores import labeled_sequences, mask_scores
from dino_train.evaluation.segmentation.video_folder import open_video_folder
from dino_train.export.foreground_head import add_foreground_head
from dino_train.export.student import export
from dino_train.export.teacher_comparison import times
from dino_train.models.backbones import patch_size
from dino_train.models.weights import open_weights
from dino_train.recipes import BackboneConfig, CropsConfig, Dinov2Recipe, DistillRecipe, OptimizerConfig, Recipe
from dino_train.recipes.files import load_recipe
from dino_train.runs.log import LAST_NAME
from dino_train.training import trainer

matplotlib.use("Agg")
from matplotlib import pyplot

LOG, LATER = 0.5, 0.6
"""Frames of a scene before the first share are the log, those from the second on are scored. What is between them is
left out, because it resembles both."""
DEPTH, CROP, BATCH, LEARNING_RATE = 3 / 4, 8, 8, 1e-4
"""Distillation: share of the blocks, and the rate at which they keep what they know, both as in the recipe
fewer_blocks; patches on a crop's side, where small crops allow several times as many steps; batch."""
TRIAL = 10
"""Steps that measure how many fit."""
SHOWN = 6
"""Scenes in the picture, at most."""
NAME = "own_log"
BEFORE = "encoder"
"""The arm that the others are compared with."""


def cost(step: Callable[..., object], *arguments: object, **options: object) -> float:
    """Seconds of two cores that a step takes."""
    started = time.process_time()
    step(*arguments, **options)
    return (time.process_time() - started) / 2


def split(truth: Path, out: Path) -> None:
    """Link the frames of each scene into `out`: `log/SCENE`, and `later/images/SCENE` with `later/masks/SCENE`."""
    for scene in open_video_folder(truth):
        for number, (image, mask) in enumerate(scene.files):
            if number < LOG * len(scene.files):
                link(image, out / "log" / scene.name)
            elif number >= LATER * len(scene.files):
                link(image, out / "later" / "images" / scene.name)
                link(mask, out / "later" / "masks" / scene.name)


def link(file: Path, folder: Path) -> None:
    """Link a file into a folder under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).symlink_to(file.absolute())


def distill(weights: str, paths: list[str], out: Path, seconds: float) -> None:
    """Distill three quarters of the encoder's blocks in about `seconds` of two cores; writes `out/distilled`."""
    backbone = shape_of(weights)
    recipe = DistillRecipe(
        backbone=dataclasses.replace(backbone, depth=round(DEPTH * (backbone.depth or 0))),
        crops=CropsConfig(CROP * (backbone.patch_size or 0), local_crops_number=0, color=0.5),
        optimizer=OptimizerConfig(lr=LEARNING_RATE * 256 / BATCH, warmup_epochs=0.1, weight_decay_end=0.04),
        epochs=1,
        batch_size=BATCH,
        teacher=weights,
        init="teacher",
    )
    train(recipe, paths, out / "distilled", seconds)


def adapt(weights: str, paths: list[str], out: Path, seconds: float) -> None:
    """Adapt the encoder in about `seconds` of two cores; writes `out/adapted`."""
    recipe, backbone = load_recipe("adapt"), shape_of(weights)
    assert isinstance(recipe, Dinov2Recipe)
    crops = dataclasses.replace(recipe.crops, global_crops_size=CROP * (backbone.patch_size or 0))
    frozen = dataclasses.replace(recipe.dinov2, freeze_blocks=(backbone.depth or 0) // 2)
    recipe = dataclasses.replace(recipe, backbone=backbone, crops=crops, dinov2=frozen, init=weights)
    train(recipe, paths, out / "adapted", seconds)


def shape_of(weights: str) -> BackboneConfig:
    """The recipe's backbone for an encoder's weights, with its position embedding as it is."""
    vit = open_weights(weights).vit
    patch, heads = patch_size(vit), int(vit.blocks[0].attn.num_heads)
    # The kind of the encoder's blocks, with LayerScale or without.
    name = "vit_small_patch14_dinov2" if hasattr(vit.blocks[0].ls1, "gamma") else "vit_small_patch16_224"
    size = patch * int(vit.patch_embed.grid_size[0])
    return BackboneConfig(name, patch, int(vit.embed_dim), len(vit.blocks), heads, size, drop_path_rate=0.0)


def train(recipe: Recipe, paths: list[str], out: Path, seconds: float) -> None:
    """Train for as many steps as fit into about `seconds` of two cores, the schedules as long as the run."""
    steps_per_epoch = len(open_frames(paths, selection=SelectionParameters())) // recipe.batch_size

    def run(steps: int, folder: Path) -> None:
        # Without workers: a process that has engines should have no children that end.
        machine = MachineConfig(device="cpu", workers=0)
        timed = lasting(recipe, steps / steps_per_epoch)
        trainer.train(timed, DataConfig(paths), folder, machine, EvaluationConfig(every=0))

    trial = cost(run, TRIAL, out.with_name(f"trial_{out.name}"))
    run(max(int(TRIAL * (seconds / trial - 1)), TRIAL), out)


def lasting(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe with other epochs, and each part of its schedule as large a share of them as before."""
    share = epochs / recipe.epochs
    optimizer = dataclasses.replace(recipe.optimizer, warmup_epochs=share * recipe.optimizer.warmup_epochs)
    recipe = dataclasses.replace(recipe, epochs=epochs, optimizer=optimizer)
    if isinstance(recipe, Dinov2Recipe):
        own = recipe.dinov2
        frozen = {name: share * getattr(own, name) for name in ("freeze_last_layer", "freeze_backbone")}
        recipe = dataclasses.replace(recipe, dinov2=dataclasses.replace(own, **frozen))
    return recipe


class Results:
    """The scores of each arm, on the later frames."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.arms: dict[str, dict[str, Any]] = {}
        self.scenes = open_video_folder(out / "later")
        shown = [self.scenes[number] for number in evenly_spaced(len(self.scenes), SHOWN)]
        self.shown = [read_labeled(*scene.files[len(scene.files) // 2]) for scene in shown]
        truth = [255 * ((objects > 0) & (objects != VOID)).astype(np.uint8) for _, objects in self.shown]
        self.masks: dict[str, list[NDArray[np.uint8]]] = {"ground truth": truth}

    def add(self, file: Path, seconds: float, arms: dict[str, MaskParameters]) -> None:
        """Score a file's masks, made in each of these ways; `seconds` is what it took to make the file."""
        perceiver = Perceiver.load(file)
        variants = [parameters.resolve(perceiver.info) for parameters in arms.values()]
        scenes = [mask_scores(perceiver, [frames], variants) for frames in labeled_sequences(self.out / "later")]
        for name, parameters, scores in zip(arms, variants, zip(*scenes, strict=True), strict=True):
            self.arms[name] = {
                "file": file.name,
                "method": parameters.method,
                "minutes": seconds / 60,
                "iou": float(np.mean([one.iou for one in scores])),
                "boundary": float(np.mean([one.boundary for one in scores])),
                "scenes": {scene.name: one.iou for scene, one in zip(self.scenes, scores, strict=True)},
            }
            self.masks[name] = []
            for image, _ in self.shown:
                mask = perceiver(image, ("mask",), parameters).mask
                assert mask is not None  # it was asked for
                self.masks[name].append(mask)
            print(f"{name}: IoU {self.arms[name]['iou']:.3f} after {seconds / 60:.1f} min", flush=True)
        self.write()

    def measure(self) -> None:
        """Add the time of each arm's engine for a frame, relative to that of the encoder."""
        files = {arm["file"]: Perceiver.load(self.out / arm["file"]) for arm in self.arms.values()}
        milliseconds = times(files)
        for arm in self.arms.values():
            arm["time"] = milliseconds[arm["file"]] / milliseconds["encoder.onnx"]
        self.write()

    def write(self) -> None:
        """Write what is known so far."""
        write_whole(self.out / f"{NAME}.json", json.dumps(self.arms, indent=2).encode())

    def table(self) -> Table:
        """A row for each arm."""
        reference = self.arms[BEFORE]["scenes"]
        table = Table("", "mask_method", "minutes", "IoU", "boundary F", f"scenes above {BEFORE}", "time")
        for name, arm in self.arms.items():
            better = sum(iou > reference[scene] for scene, iou in arm["scenes"].items())
            numbers = (f"{arm['minutes']:.1f}", f"{arm['iou']:.3f}", f"{arm['boundary']:.3f}")
            table.add_row(name, arm["method"], *numbers, f"{better} of {len(reference)}", f"{arm['time']:.2f}")
        return table

    def draw(self) -> None:
        """Write the picture: a row for each scene that is shown, a column for each arm, the masks outlined."""
        columns, rows = len(self.masks), len(self.shown)
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(2.4 * columns, 1.5 * rows), squeeze=False, layout="constrained"
        )
        no_heat = np.zeros((1, 1, 1), np.float32)
        for column, (name, masks) in enumerate(self.masks.items()):
            grid[0, column].set_title(name, fontsize=9)
            for axes, (image, _), mask in zip(grid[:, column], self.shown, masks, strict=True):
                axes.imshow(overlay(image, mask, no_heat))
                axes.axis("off")
        figure.savefig(self.out / f"{NAME}.png", dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Split, make each arm's file, score it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="weights, as `dino-train export` takes them")
    parser.add_argument("--size", default="224x224", help="HxW of the students' input")
    parser.add_argument("--truth", type=Path, required=True, help="folder of videos with masks, laid out as DAVIS")
    parser.add_argument("--log", nargs="*", default=[], help="more of the log: bags, videos, folders of images")
    parser.add_argument("--varied", nargs="*", default=[], help="images of many places, for a head learned on those")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/own_log"))
    options = parser.parse_args(arguments)
    out: Path = options.out
    if out.exists():
        raise UserError(f"{out} exists: name a new folder with --out.")
    weights = absolute(options.encoder) if Path(options.encoder).exists() else options.encoder
    height, width = parse_size(options.size)
    split(options.truth, out)
    log = [str(out / "log"), *options.log]
    results = Results(out)

    encoder, head, own = out / "encoder.onnx", out / "head.onnx", MaskParameters()
    exporting = cost(export, weights, encoder, (height, width), data=log)
    results.add(encoder, exporting, {"encoder, the paper's mask": ATTENTION, BEFORE: own})
    learning = cost(add_foreground_head, str(encoder), log, [], head)
    results.add(head, exporting + learning, {"head": own})

    student, head = out / "distilled.onnx", out / "distilled_head.onnx"
    distilling = cost(distill, weights, log, out, 60 * options.minutes - exporting - learning)
    distilling += cost(export, str(out / "distilled" / LAST_NAME), student, (height, width), data=log)
    results.add(student, distilling, {"distilled": own})
    distilling += cost(add_foreground_head, str(student), log, [], head)
    results.add(head, distilling, {"distilled, head": own})

    adapted = out / "adapted.onnx"
    adapting = cost(adapt, weights, log, out, 60 * options.minutes - exporting)
    adapting += cost(export, str(out / "adapted" / LAST_NAME), adapted, (height, width), data=log)
    results.add(adapted, adapting, {"adapted, the paper's mask": ATTENTION, "adapted": own})

    if options.varied:
        head = out / "head_varied.onnx"
        learning = cost(add_foreground_head, str(encoder), options.varied, [], head)
        results.add(head, exporting + learning, {"head, varied images": own})

    results.measure()
    results.draw()
    Console(width=140).print(results.table())


if __name__ == "__main__":
    main()
