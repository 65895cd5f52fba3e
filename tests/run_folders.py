"""Folders of runs as training leaves them, without training."""

import json
from pathlib import Path

RECIPE = "dino: {out_dim: 1024}\nbackbone: {name: vit, pretrained: false}\ninit: null\nepochs: 20\n"


def log_line(step: int, **values: float) -> str:
    """A line of a healthy DINO run, with some values changed; epochs have 100 steps."""
    fields = {
        "step": step,
        "epoch": step / 100,
        "loss": 4.0,
        "teacher_entropy": 2.3,
        "kl": 1.7,
        "marginal_entropy": 5.1,
    }
    return json.dumps({**fields, **values}) + "\n"


def evaluation(epoch: int, accuracy: float | None = None, **values: object) -> str:
    """A line of the evaluations; `accuracy` is that of k = 20 on 664 images."""
    scored = {} if accuracy is None else {"knn": {"10": 0.9, "20": accuracy}, "knn_images": 664}
    name = f"epoch_{epoch:04d}.pt"
    return json.dumps({"step": 100 * epoch, "epoch": epoch, "checkpoint": name, **scored, **values}) + "\n"


def make_run(folder: Path, log: str, evaluations: str = "", recipe: str = RECIPE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "log.jsonl").write_text(log)
    (folder / "evaluations.jsonl").write_text(evaluations)
    return folder
