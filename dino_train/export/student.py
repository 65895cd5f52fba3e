"""From weights to a student: an ONNX file that dino_ros runs, checked against torch before it is kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from timm.models import VisionTransformer
from torch import Tensor, nn

from dino_ros.demo.table import TABLE
from dino_ros.errors import UserError
from dino_ros.files import replacing
from dino_ros.images.sampling import evenly_spaced
from dino_ros.perception.perceiver import Perceiver
from dino_ros.student import FORMAT_VERSION, StudentInfo
from dino_train.data.frames import MixedFrames, open_frames
from dino_train.evaluation.classification.class_folder import open_class_folder
from dino_train.export.description import write_description
from dino_train.export.engine_attention import EngineAttention
from dino_train.export.input_size import Camera, input_size
from dino_train.export.quantize import quantize
from dino_train.models.backbones import VitOutputs, mean_and_std, patch_size
from dino_train.models.fewer_blocks import fold_layer_scale
from dino_train.models.weights import Weights, open_weights, weights_hash

log = logging.getLogger(__name__)

OPSET = 18
OUTPUTS = ("features", "attention", "embedding")
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest difference allowed between ONNX Runtime and torch in fp32, relative to the output's largest value."""
PARITY_IMAGES = 8
"""Images on which the two are compared, at most."""


class FixedRope(nn.Module):
    """DINOv3's rotary position embedding for one size as a constant, float [h * w, 2 * C / heads]."""

    embedding: Tensor

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding.detach())

    def get_embed(self, shape: object = None) -> Tensor:
        """Called by timm's Eva; the grid's `shape`, which not every version passes, is fixed."""
        return self.embedding


class StudentGraph(nn.Module):
    """The graph of the file: normalization, ViT and CLS attention.

    Takes RGB images uint8 [B, H, W, 3]; returns features [B, h, w, C], attention [B, heads, h, w] and embedding [B, C],
    all float32 whatever the precision of the weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vit: VisionTransformer, precision: str) -> None:
        super().__init__()
        mean, std = mean_and_std(vit)
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        self.outputs = VitOutputs(vit).to(self.dtype)
        if precision == "fp16":
            keep_norms_in_fp32(vit)
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)))
        self.register_buffer("shift", torch.tensor([m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        normalized = images.float().permute(0, 3, 1, 2) * self.scale - self.shift
        with EngineAttention():
            outputs = self.outputs(normalized.to(self.dtype))
        return tuple(output.float() for output in outputs)


def keep_norms_in_fp32(vit: VisionTransformer) -> None:
    """Make the layer norms of an fp16 ViT compute in fp32, whichever engine runs the graph.

    ViTs have channels hundreds of times larger than the others, and their squares overflow fp16.
    """
    for norm in vit.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.float()
            norm.register_forward_pre_hook(lambda module, inputs: inputs[0].float())
            norm.register_forward_hook(lambda module, inputs, output: output.half())


def export(
    weights: str,
    out: Path,
    size: tuple[int, int] | Camera,
    precision: str = "fp32",
    network: str | None = None,
    data: Sequence[str | Path] = (),
    license: str = "",
    topics: Sequence[str] = (),
    knn: Path | None = None,
    architecture: str = "",
    good_for: str = "",
) -> StudentInfo:
    """Write `weights` as a student to `out`; return its description.

    `size` is the height and width of its input in pixels, or the camera for which `input_size` chooses them. `weights`,
    `network` and `architecture` are those of `open_weights`; the weights are opened before any data, and a license that
    is known not to be free is warned of. `license` replaces the one stated by the weights' source; `good_for` is
    written into the description. With "int8" the fp32 student is quantized on `data`, which is then required, and `knn`
    may name a folder for k-NN before and after: see `quantize`.

    The file is kept only if ONNX Runtime agrees with torch in fp32 within TOLERANCE, on images of `data` (default: the
    demo's bag; `topics` picks image topics of bags). Raises UserError where it does not, and for weights, sizes or data
    that cannot be used.
    """
    if precision == "int8" and not data:
        raise UserError(
            "--precision int8 needs --data: give a bag, video or folder of images like those that the robot sees."
        )
    opened = open_weights(weights, network, architecture)
    opened.license = license or opened.license
    height, width = input_size(size, patch_size(opened.vit)) if isinstance(size, Camera) else size
    vit = fix_size(opened.vit.eval(), height, width)
    fold_layer_scale(vit)
    mean, std = mean_and_std(vit)
    tell(opened, mean, std)
    labeled = open_class_folder(knn) if knn else None
    frames = open_frames(data or (TABLE,), topics)
    images = parity_images(frames, height, width)
    log.info("Writing the student, then comparing it with torch on %d images.", len(images))
    with torch.inference_mode():
        reference = StudentGraph(vit, "fp32")(torch.from_numpy(images))
    written = "fp32" if precision == "int8" else precision
    info = StudentInfo(
        format_version=FORMAT_VERSION,
        architecture=opened.architecture,
        patch_size=patch_size(vit),
        embed_dim=int(vit.embed_dim),
        heads=reference[OUTPUTS.index("attention")].shape[1],
        registers=max(int(vit.num_prefix_tokens) - 1, 0),
        height=height,
        width=width,
        mean=mean,
        std=std,
        precision=written,
        weights={**opened.origin, "sha256": weights_hash(vit)},
        license=opened.license,
        good_for=good_for,
    )
    with replacing(out) as temporary:
        write_onnx(StudentGraph(vit, written).eval(), info, temporary)
        check_parity(temporary, images, reference, written)
        if precision == "int8":
            info = quantize(temporary, frames, labeled)
    return info


def tell(opened: Weights, mean: Sequence[float], std: Sequence[float]) -> None:
    """Log what was made of the weights, and warn of a license that is not free."""
    numbers = [", ".join(f"{value:.3g}" for value in values) for values in (mean, std)]
    log.info("%s: %s; normalizes by mean %s and std %s", opened.origin["source"], opened.architecture, *numbers)
    if not opened.is_free:
        log.warning(
            "The license of these weights, %s, restricts what they may be used for, the student included: read it "
            "before you use or share the student.",
            opened.license,
        )


def fix_size(vit: VisionTransformer, height: int, width: int) -> VisionTransformer:
    """Fix a ViT in evaluation mode to one input size, so that its position embedding is a constant of the graph.

    Engines differ in how they resize, and TensorRT's parser rejects antialiased resizing. Raises UserError for a size
    that is not a multiple of the patch size.
    """
    patch = patch_size(vit)
    if height < patch or width < patch or height % patch or width % patch:
        raise UserError(
            f"--size {height}x{width} is not a multiple of the patch size {patch}: "
            f"choose {max(height // patch, 1) * patch}x{max(width // patch, 1) * patch}."
        )
    vit.set_input_size(img_size=(height, width))
    vit.dynamic_img_size = False
    vit.patch_embed.dynamic_img_pad = False
    vit.patch_embed.flatten = True
    vit.patch_embed.output_fmt = type(vit.patch_embed.output_fmt).NCHW
    if getattr(vit, "rope", None) is not None:
        vit.rope = FixedRope(vit.rope.get_embed(shape=vit.patch_embed.grid_size))
    return vit


def write_onnx(graph: StudentGraph, info: StudentInfo, path: Path) -> None:
    """Export to ONNX with a dynamic batch size and the description in the metadata."""
    example = torch.zeros(2, info.height, info.width, 3, dtype=torch.uint8)  # a batch size of 1 would become a constant
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        external_data=False,
        verbose=False,
    )
    assert program is not None  # with dynamo=True torch always returns the program
    model = program.model_proto
    write_description(model, info)
    onnx.save(model, path)


def parity_images(frames: MixedFrames, height: int, width: int) -> NDArray[np.uint8]:
    """Evenly spaced images of the data, uint8 [N, height, width, 3]."""
    numbers = evenly_spaced(len(frames), PARITY_IMAGES)
    images = [cv2.resize(frames[n], (width, height), interpolation=cv2.INTER_AREA) for n in numbers]
    return np.stack(images).astype(np.uint8, copy=False)


def check_parity(path: Path, images: NDArray[np.uint8], reference: tuple[Tensor, ...], precision: str) -> None:
    """Raise UserError if ONNX Runtime's outputs differ from the reference by more than TOLERANCE."""
    outputs = Perceiver.load(path, backend="onnxruntime")(list(images), outputs=OUTPUTS)
    for name, expected in zip(OUTPUTS, reference, strict=True):
        actual = np.stack([getattr(output, name) for output in outputs])
        error = float(np.abs(actual - expected.numpy()).max() / np.abs(expected.numpy()).max())
        log.info("parity: %s differs from torch in fp32 by %.1e of its largest value", name, error)
        if not error <= TOLERANCE[precision]:
            raise UserError(
                f"The exported student's {name} differs from torch by {error:.1e} of its largest value, above the "
                f"tolerance {TOLERANCE[precision]:.0e} of {precision}: export with --precision fp32."
            )
