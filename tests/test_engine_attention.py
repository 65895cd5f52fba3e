"""Attention as engines take it: the same numbers, and a graph without detours."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

torch = pytest.importorskip("torch")

from timm.layers import Attention
from timm.models.eva import EvaAttention
from torch import nn
from torch.nn import functional

from benchmarks import students
from dino_train.export.engine_attention import EngineAttention

DIM, HEADS, TOKENS = 12, 3, 7
DEPTH = 3


@pytest.mark.parametrize(
    "block",
    [
        Attention(DIM, HEADS, qkv_bias=True),
        Attention(DIM, HEADS, qk_norm=True, norm_layer=nn.LayerNorm),
        EvaAttention(DIM, HEADS, qkv_fused=True, norm_layer=nn.LayerNorm),
        EvaAttention(DIM, HEADS, qkv_fused=False, norm_layer=nn.LayerNorm),
    ],
)
def test_the_numbers_stay(block: nn.Module) -> None:
    block = block.double().eval()
    tokens = torch.randn(2, TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = block(tokens)
    with EngineAttention():
        seen = block(tokens)
    np.testing.assert_allclose(seen.detach(), expected.detach(), atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()}, {"is_causal": True}, {"scale": 3.0}]
)
def test_another_attention_is_left_to_torch(options: dict[str, Any]) -> None:
    query = torch.randn(1, HEADS, TOKENS, 4, generator=torch.Generator().manual_seed(0))
    expected = functional.scaled_dot_product_attention(query, query, query, **options)
    with EngineAttention():
        seen = functional.scaled_dot_product_attention(query, query, query, **options)
    assert torch.equal(seen, expected)


def test_a_student_moves_its_tokens_four_times_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.onnx"
    monkeypatch.setattr(students, "create_vit", partial(students.create_vit, depth=DEPTH))
    students.random_student(path, "vit_ti_16", 32, 32)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    count = Counter(node.op_type for node in model.graph.node)
    assert count["Split"] == DEPTH  # query, key and value
    assert count["Transpose"] == 4 * DEPTH + 3  # query, key, value, result; image, its patches, and keys for CLS
    assert count["Softmax"] == DEPTH + 1
    rank = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    assert max(rank.values()) == 4
