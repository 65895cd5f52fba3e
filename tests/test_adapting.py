"""The benchmark of adapting: each row is a step of its recipe, and the columns agree."""

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch

from benchmarks import adapting
from dino_train.models.backbones import create_vit

NAME = "vit_tiny_patch16_224"


def test_what_is_timed_is_what_its_row_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps move the later half of the blocks, or all of them, from those of the encoder on."""
    vit: Any = create_vit(NAME, img_size=518, pretrained_cfg_overlay={"mean": (0.485, 0.456, 0.406)})
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "encoder.safetensors")
    students: list[Any] = []
    build = adapting.build_objective

    def kept(*arguments: Any, **options: Any) -> Any:
        objective = build(*arguments, **options)
        students.append(objective.student)
        return objective

    monkeypatch.setattr(adapting, "build_objective", kept)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ("--backbone", NAME, "--size", "32", "--batch", "2", "--steps", "1")
    adapting.main(["--encoder", str(tmp_path / "encoder.safetensors"), *options])

    rows = re.findall(r"│ ([a-z, ]+?) +│ ([0-9.]+) +│ ([0-9.]+) +│", capsys.readouterr().out)
    assert [name for name, _, _ in rows] == ["adapt", "distill", "adapt, no block frozen"]
    _, of_distill, one = rows[1]
    assert float(one) == 1
    for _, rate, share in rows:
        assert float(share) == pytest.approx(float(rate) / float(of_distill), abs=0.02)
    for student, first in zip(students, (6, 0, 0), strict=True):
        for number, (ours, theirs) in enumerate(zip(student.backbone.blocks, vit.blocks, strict=True)):
            same = torch.equal(ours.attn.qkv.weight, theirs.attn.qkv.weight)
            assert same == (number < first), number
            torch.testing.assert_close(ours.attn.qkv.weight, theirs.attn.qkv.weight, rtol=0, atol=1e-3)
