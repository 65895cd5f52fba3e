"""Open weights: checkpoints of `dino-train`, files and folders of other encoders, and timm's by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import VisionTransformer

from dino_ros.errors import UserError
from dino_train.models.backbones import build_backbone, create_vit, patch_size
from dino_train.models.checkpoint import checkpoint_backbone, load_checkpoint
from dino_train.models.dino_v1 import DINO_LICENSE, SIZES, first_difference
from dino_train.models.layouts import TIMM, Encoder, find_encoder, is_dinov3
from dino_train.models.vit_shape import VitShape, infer_shape
from dino_train.models.weight_files import (
    WeightFile,
    check_finite,
    find_weights,
    is_checkpoint,
    is_safetensors,
    read_weights,
    strange_contents,
)
from dino_train.recipes import BackboneConfig, PretrainRecipe

NOT_STATED = "not stated"
AND = " AND "
"""Between licenses that all hold, as in SPDX's expressions."""
FREE = ("apache", "mit", "bsd", "isc", "cc-by-4", "cc-by-sa-4", "cc0", "unlicense", "openrail")
"""How the names begin of licenses that allow any use, that of a robot for sale included."""

SET_HERE = ("num_classes", "global_pool", "dynamic_img_size", "img_size")
"""Options in timm's config.json that do not concern the encoder, or follow from its weights."""

Origin = dict[str, str | int | float]


@dataclass
class Weights:
    """A ViT and where its weights come from."""

    vit: VisionTransformer
    architecture: str
    origin: Origin
    license: str

    @property
    def is_free(self) -> bool:
        """Whether the license is known to allow any use, or is not known at all."""
        return all(part == NOT_STATED or part.lower().startswith(FREE) for part in self.license.split(AND))


def open_weights(weights: str, network: str | None = None, architecture: str = "") -> Weights:
    """Open a checkpoint of `dino-train`, a file or folder of another encoder, or a timm model by its name.

    Files are recognized by their content. `network` is "teacher" or "student" where a file holds both, or "random" (a
    checkpoint's architecture with random weights); by default the one that the method exports. `architecture` is the
    timm name of a file's ViT, where its weights do not tell it. Raises UserError if the weights cannot be read, are not
    finite, have no such network, or are not those of a ViT that this project runs.
    """
    path = find_weights(weights)
    if path is not None and is_checkpoint(path):
        return _of_checkpoint(path, network)
    if network == "random":
        raise UserError(
            f"--network random takes the shape of a checkpoint of `dino-train`: give one instead of {weights}."
        )
    if path is None:
        if architecture:
            raise UserError(f"--architecture is for files, but {weights} is a timm name: leave it out.")
        vit = create_vit(weights, pretrained=True)
        return Weights(vit, weights, {"source": f"timm {weights}"}, timm_license(vit))
    with strange_contents(path):
        file = read_weights(path)
        encoder = find_encoder(file, network)
        architecture = architecture or _timm_name(file)
        return _of_name(file, encoder, architecture) if architecture else _of_shape(file, encoder)


def timm_license(vit: VisionTransformer) -> str:
    """License that timm states for the pretrained weights of its ViT."""
    return str(vit.pretrained_cfg.get("license") or NOT_STATED)


def joint_license(licenses: Iterable[str]) -> str:
    """License of what is made of weights under these `licenses`: all of them, each once."""
    parts = {part.lower(): part for license in licenses for part in license.split(AND)}
    return AND.join(parts.values()) or NOT_STATED


def random_like(origin: Mapping[str, Any]) -> VisionTransformer | None:
    """An untrained ViT like the one whose weights have this origin; None if the origin does not tell."""
    if "recipe" in origin:
        recipe = json.loads(str(origin["recipe"]))
        return build_backbone(
            BackboneConfig(**recipe["backbone"]), recipe["crops"]["global_crops_size"], download=False
        )
    if "shape" in origin:
        return VitShape(**json.loads(str(origin["shape"]))).build()
    name = str(origin.get("timm") or str(origin.get("source", "")).removeprefix("timm "))
    return create_vit(name) if name and name != origin.get("source") else None


def weights_hash(vit: VisionTransformer) -> str:
    """SHA-256 of all weights in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _of_checkpoint(path: Path, network: str | None) -> Weights:
    checkpoint = load_checkpoint(path)
    backbone, network = checkpoint.recipe.backbone, network or checkpoint.network
    license = joint_license(checkpoint.licenses)
    if network == "random":
        license = NOT_STATED
        torch.manual_seed(checkpoint.recipe.seed)
        vit = build_backbone(backbone, checkpoint.recipe.crops.global_crops_size, download=False)
    else:
        vit = checkpoint_backbone(checkpoint, network)
    command = "pretrain" if isinstance(checkpoint.recipe, PretrainRecipe) else "distill"
    origin: Origin = {
        "source": f"dino-train {command}, {network}",
        "data": ", ".join(Path(path).name for path in checkpoint.data.paths),
        "images": checkpoint.images,
        "steps": checkpoint.step,
        "recipe": json.dumps({k: _file_name(value) for k, value in dataclasses.asdict(checkpoint.recipe).items()}),
    }
    architecture = f"{backbone.name.split('_patch')[0]}, patch {patch_size(vit)}, {len(vit.blocks)} blocks"
    return Weights(vit, architecture, origin, license)


def _of_name(file: WeightFile, encoder: Encoder, architecture: str) -> Weights:
    """A file's ViT as timm's model of this name."""
    stated = {"mean": file.mean, "std": file.std, "license": file.license, "tag": _timm_tag(file)}
    overlay = {name: value for name, value in stated.items() if value}
    options = file.config.get("model_args") or {} if _timm_name(file) == architecture else {}
    options = {name: value for name, value in options.items() if name not in SET_HERE} | _image_size(encoder)
    vit = create_vit(architecture, pretrained_cfg_overlay=overlay, **options)
    _load(vit, encoder, f"timm's {architecture}", file.path)
    origin: Origin = {"source": _source(file, encoder), "timm": architecture}
    return Weights(vit, architecture, origin, timm_license(vit))


def _of_shape(file: WeightFile, encoder: Encoder) -> Weights:
    """A file's ViT by the names and shapes of its weights."""
    shape = infer_shape(encoder, file.config, file.mean, file.std, file.path)
    architecture, source, license = str(shape), _source(file, encoder), file.license
    if _is_dino_v1(file, encoder, shape):
        shape = dataclasses.replace(shape, resized_as_dino=True)
        architecture = f"vit_{SIZES[shape.embed_dim]}_patch{shape.patch_size}_224.dino"
        network = "student" if "student" in encoder.prefix else "teacher"
        source, license = f"official DINO v1 file {file.path.name}, {network}", license or DINO_LICENSE
    elif is_dinov3(encoder.state):
        license = license or "dinov3-license"
    vit = shape.build()
    _load(vit, encoder, f"a ViT ({shape})", file.path)
    origin: Origin = {"source": source, "shape": json.dumps(shape.as_options())}
    return Weights(vit, architecture, origin, license or NOT_STATED)


def _load(vit: VisionTransformer, encoder: Encoder, what: str, path: Path) -> None:
    """Load the weights; raises UserError at the first name or shape that is not the ViT's."""
    if odd := first_difference(vit.state_dict(), encoder.state):
        raise UserError(
            f"{path} cannot be opened as {what} ({odd}): name its timm model with --architecture, or give another file."
        )
    check_finite(encoder.state, path)
    vit.load_state_dict(encoder.state)


def _is_dino_v1(file: WeightFile, encoder: Encoder, shape: VitShape) -> bool:
    """Whether a ViT is as DINO's authors publish theirs: alone in a file of torch, or in a training checkpoint."""
    plain = dataclasses.replace(shape, patch_size=8, embed_dim=384, depth=1, num_heads=6, hidden=1536, grid=28)
    expected = VitShape(8, 384, 1, 6, 1536, 28, 1e-6, "gelu", shape.mean, shape.std)
    published = shape.embed_dim in SIZES and shape.patch_size in (8, 16) and plain == expected
    in_training = re.fullmatch(r"(teacher|student)\.(module\.)?backbone\.", encoder.prefix)
    alone = not encoder.prefix and shape.grid * shape.patch_size == 224 and file.path.is_file()
    as_theirs = bool(in_training) or (alone and not is_safetensors(file.path))
    return published and encoder.layout is TIMM and not encoder.unused and as_theirs


def _file_name(value: Any) -> Any:
    """A path of the recipe (`teacher`, `init`) without its folders, which are of no use to whoever gets the student."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _source(file: WeightFile, encoder: Encoder) -> str:
    """Name of the file, without the folders it is in, and of the ViT in it."""
    prefix = encoder.prefix.removesuffix(".")
    return f"{file.path.resolve().name}, names of {encoder.layout.name}" + (f" under {prefix}" if prefix else "")


def _timm_name(file: WeightFile) -> str:
    """The architecture that timm's config.json names."""
    return str(file.config.get("architecture") or "")


def _timm_tag(file: WeightFile) -> str:
    return str(file.config.get("pretrained_cfg", {}).get("tag") or "")


def _image_size(encoder: Encoder) -> dict[str, int]:
    """The size of the square images that a position embedding is for, as timm's option; none for a rotary one."""
    position, kernel = encoder.state.get("pos_embed"), encoder.state["patch_embed.proj.weight"]
    # The tokens before the patches are fewer than what is missing to the next square.
    return {} if position is None else {"img_size": int(position.shape[1] ** 0.5) * int(kernel.shape[-1])}
