"""A distilled student compared with its teacher: how similar their features and masks are, how good and how fast."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dino_ros.files import write_whole
from dino_ros.images.encodings import resize
from dino_ros.images.sampling import evenly_spaced
from dino_ros.masks.binary import jaccard
from dino_ros.perception.perceiver import Perceiver
from dino_train.config import ComparisonConfig, parse_size
from dino_train.data.frames import open_frames
from dino_train.data.multicrop import normalize
from dino_train.evaluation.classification.class_folder import open_class_folder
from dino_train.evaluation.classification.knn import knn_scores
from dino_train.evaluation.segmentation.jaccard import jaccard_scores
from dino_train.evaluation.segmentation.labeled_images import labeled_images
from dino_train.export.input_size import SQUARE, Camera, input_size
from dino_train.export.student import export
from dino_train.models.backbones import mean_and_std, patch_size
from dino_train.models.checkpoint import load_checkpoint
from dino_train.objectives.distill import Distill
from dino_train.recipes import DistillRecipe
from dino_train.runs.folder import COMPARISON_NAME
from dino_train.runs.report import write_report

log = logging.getLogger(__name__)

FRAMES = 64
"""Frames on which features and masks are compared, at most."""
CALLS = 50
"""Times that each file is run to measure its speed."""
WARM_UP = 5
"""First runs that are not counted."""

TeacherComparison = dict[str, Any]
"""`frames`: how many; `cosine` of the patch tokens, after the student's projection; `mask_iou` between the two; for
"student" and "teacher" each `milliseconds` (median for one image), `megabytes`, `size` and, where requested,
`mask_iou_truth` and `knn` by k; `engine`; `speed_up`; `rows`: the same as strings, for a table."""


def compare_with_teacher(checkpoint: Path, config: ComparisonConfig) -> TeacherComparison:
    """Export the student of a distilled checkpoint and its teacher, and compare the two files as a robot runs them.

    Writes `student.onnx`, `teacher.onnx` and `comparison.json` next to the checkpoint, and rewrites the report. Raises
    UserError for data, masks or sizes that cannot be used.
    """
    run, loaded = checkpoint.parent, load_checkpoint(checkpoint)
    assert isinstance(loaded.recipe, DistillRecipe)
    distill = Distill(loaded.recipe).eval()
    distill.restore(loaded.objective)
    patch, teacher_patch = patch_size(distill.student.backbone), patch_size(distill.teacher)
    paths, topics = (
        ([config.data], [config.topic] if config.topic else [])
        if config.data
        else (loaded.data.paths, loaded.data.topics)
    )
    frames = open_frames(paths, topics)
    images = [frames[number] for number in evenly_spaced(len(frames), FRAMES)]
    height, width = parse_size(config.size) if config.size else size_for(images, patch)

    log.info(
        "Comparing student and teacher: exporting both, then timing them and their masks on %d images.", len(images)
    )
    files = {"student": run / "student.onnx", "teacher": run / "teacher.onnx"}
    export(str(checkpoint), files["student"], (height, width), data=paths, topics=topics)
    teacher_size = (height // patch * teacher_patch, width // patch * teacher_patch)  # of the same patch grid
    export(loaded.recipe.teacher, files["teacher"], teacher_size, data=paths, topics=topics)
    students = {name: Perceiver.load(file) for name, file in files.items()}

    masks = [students[name](images, ("mask",)) for name in files]
    overlaps = [
        jaccard(a.mask > 0, b.mask > 0)
        for a, b in zip(*masks, strict=True)
        if a.mask is not None and b.mask is not None
    ]
    comparison: TeacherComparison = {
        "frames": len(images),
        "cosine": cosine(distill, images, height, width),
        "mask_iou": float(np.mean(overlaps)),
        "engine": students["student"].backend.description,
    }
    for name, milliseconds in times(students).items():
        info = students[name].info
        size = f"{info.height}x{info.width}"
        comparison[name] = {"milliseconds": milliseconds, "megabytes": files[name].stat().st_size / 1e6, "size": size}
        if config.data and config.masks:
            labeled = labeled_images(Path(config.data), config.masks, config.topic)
            comparison[name]["mask_iou_truth"] = jaccard_scores(students[name], labeled).mean_of_heads
        if loaded.evaluation.knn:
            accuracies = knn_scores(students[name], open_class_folder(Path(loaded.evaluation.knn)))
            comparison[name]["knn"] = {str(k): accuracy for k, accuracy in accuracies.items()}
    comparison["speed_up"] = comparison["teacher"]["milliseconds"] / comparison["student"]["milliseconds"]
    comparison["rows"] = rows(comparison)
    write_whole(run / COMPARISON_NAME, json.dumps(comparison, indent=2).encode())
    write_report(run)
    return comparison


def size_for(images: Sequence[NDArray[np.uint8]], patch: int) -> tuple[int, int]:
    """Height and width of a student's input for the images' commonest size, as `--camera` chooses it; logged.

    A square as large as ViTs are usually evaluated on where the images are of many sizes.
    """
    ((height, width), count) = Counter(image.shape[:2] for image in images).most_common(1)[0]
    camera = Camera(width, height) if count > len(images) / 2 else Camera(SQUARE, SQUARE)
    size = input_size(camera, patch)
    log.info(
        "The student's input is %d pixels high and %d wide, for images %d wide and %d high: --comparison.size chooses "
        "another.",
        *size, camera.width, camera.height,
    )  # fmt: skip
    return size


@torch.inference_mode()
def cosine(distill: Distill, images: Sequence[NDArray[np.uint8]], height: int, width: int) -> float:
    """Mean cosine, -1 to 1, of the student's projected patch tokens with the teacher's, on whole images."""
    mean, std = mean_and_std(distill.student.backbone)
    cosines = []
    for image in images:
        resized = torch.from_numpy(resize(image, height, width))
        batch = normalize(resized.permute(2, 0, 1)[None], mean, std)
        cosines.append(distill([batch], {})[1].patches.item())
    return float(np.mean(cosines))


def times(students: dict[str, Perceiver]) -> dict[str, float]:
    """Median milliseconds of each student's engine for one image; they take turns, so that other load affects both."""
    measured: dict[str, list[float]] = {name: [] for name in students}
    batches = {
        name: np.zeros((1, student.info.height, student.info.width, 3), np.uint8) for name, student in students.items()
    }
    for _ in range(CALLS):
        for name, student in students.items():
            started = time.perf_counter()
            student.backend(batches[name], ("features", "attention"))
            measured[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values[WARM_UP:]) for name, values in measured.items()}


def show(comparison: TeacherComparison) -> None:
    """Print the comparison as a table."""
    table = Table(
        "", "student", "teacher", title=f"Student and teacher on {comparison['frames']} frames, {comparison['engine']}"
    )
    for label, student, teacher in comparison["rows"]:
        table.add_row(label, student, teacher)
    Console().print(table)


def rows(comparison: TeacherComparison) -> list[tuple[str, str, str]]:
    """Rows of the comparison's table: label, student's value, teacher's value."""
    student, teacher = comparison["student"], comparison["teacher"]
    lines = [
        ("cosine of patch tokens with the teacher's", f"{comparison['cosine']:.3f}", ""),
        ("mask IoU with the teacher's", f"{comparison['mask_iou']:.3f}", ""),
    ]
    if "mask_iou_truth" in student:
        name = "mask_iou_truth"
        lines.append(("mask IoU with the truth", f"{student[name]:.3f}", f"{teacher[name]:.3f}"))
    for k in student.get("knn", {}):
        lines.append((f"k-NN, k = {k}", f"{student['knn'][k]:.1%}", f"{teacher['knn'][k]:.1%}"))
    return [
        *lines,
        ("input", student["size"], teacher["size"]),
        ("MB", f"{student['megabytes']:.1f}", f"{teacher['megabytes']:.1f}"),
        ("ms for one image", f"{student['milliseconds']:.1f}", f"{teacher['milliseconds']:.1f}"),
        ("speed-up", f"{comparison['speed_up']:.1f}", ""),
    ]
