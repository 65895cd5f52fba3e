"""Vision Transformers from timm for images of any size, and the CLS attention of their last block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.models import Eva, VisionTransformer, VisionTransformerDistilled, checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dino_ros.errors import UserError
from dino_train.models.last_block import cls_after, is_plain
from dino_train.recipes import BackboneConfig


class DinoVit(VisionTransformer):
    """timm's ViT with its position embedding resized as in DINO's reference implementation; weights have timm's names.

    Used for the published weights of DINO and of DINOv2 without registers, and for ViTs without registers that are
    pretrained here. All others keep timm's antialiased resize, which is also what DINOv2 with registers uses.
    """

    pos_embed: nn.Parameter

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Turn images [B, 3, H, W] into their CLS tokens after the final norm, [B, C]; as timm, in fewer operations."""
        last = self.blocks[-1]
        if self.global_pool != "token" or attn_mask is not None or is_causal or not is_plain(last):
            tokens: Tensor = super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
            return tokens
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        blocks = self.blocks[:-1]
        tokens = checkpoint_seq(blocks, tokens) if self.grad_checkpointing else blocks(tokens)
        embedding: Tensor = self.forward_head(self.norm(cls_after(last, tokens)))
        return embedding

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Turn patches [B, h, w, C] into tokens with positions [B, prefix + h * w, C]; as timm for a fixed size."""
        if not self.dynamic_img_size:
            tokens: Tensor = super()._pos_embed(x)
            return tokens
        rows, columns = x.shape[1:3]
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        position = resize_position_embedding(self.pos_embed, self.patch_embed.grid_size, (rows, columns), prefix)
        leading = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = torch.cat([*leading, x.flatten(1, 2)], dim=1)
        # Some ViTs give the leading tokens no position: pad with zeros.
        tokens = self.pos_drop(tokens + functional.pad(position, (0, 0, tokens.shape[1] - position.shape[1], 0)))
        return tokens

    def set_input_size(self, img_size: tuple[int, int], patch_size: tuple[int, int] | None = None) -> None:
        """Resize the position embedding for images of `img_size` (height and width in pixels)."""
        position, grid = self.pos_embed, self.patch_embed.grid_size
        super().set_input_size(img_size, patch_size)  # resizes in timm's way; overridden below
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        resized = resize_position_embedding(position, grid, self.patch_embed.grid_size, prefix)
        self.pos_embed = nn.Parameter(resized.detach(), requires_grad=position.requires_grad)


class ClsDistilledVit(VisionTransformerDistilled):
    """DeiT's distilled ViT, returning its CLS token instead of the mean of CLS and distillation token."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the CLS token [B, C] of tokens [B, N, C]."""
        return x[:, 0]


def resize_position_embedding(embedding: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> Tensor:
    """Resize a position embedding to another grid of patches as in DINO's reference implementation.

    `embedding` is float [1, prefix + rows * columns, C] for the grid `old`; returns [1, prefix + rows * columns, C] for
    the grid `new`. The first `prefix` entries are unchanged. Bicubic without antialiasing, with a sampling step of
    old / (new + 0.1): `interpolate_pos_encoding` in facebookresearch/dino, vision_transformer.py.
    """
    if old == new:
        return embedding
    grid = embedding[:, prefix:].unflatten(1, old).movedim(-1, 1)
    factors = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
    grid = functional.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([embedding[:, :prefix], grid.movedim(1, -1).flatten(1, 2)], dim=1)


def build_backbone(
    config: BackboneConfig, image_size: int, drop_path_rate: float = 0.0, download: bool = True
) -> VisionTransformer:
    """Build a timm ViT without classifier for images of any size that is a multiple of the patch size.

    Its position embedding is for square images of `config.image_size` pixels, or else of `image_size`. Calling the
    module on float32 [B, 3, H, W] returns the CLS token after the final norm, [B, C]. With `download` False a
    `pretrained` config gets random weights, for a ViT whose weights are about to be replaced. Raises UserError if timm
    has no such model, if it is not a ViT with a CLS token, or if the dimensions in `config` are inconsistent.
    """
    options: dict[str, Any] = {
        name: value
        for name in ("patch_size", "embed_dim", "depth", "num_heads")
        if (value := getattr(config, name)) is not None
    }
    image_size = config.image_size or image_size
    if config.pretrained:
        vit = create_vit(config.name, download, drop_path_rate=drop_path_rate, **options)
        vit.set_input_size((image_size, image_size))
        return vit
    vit = create_vit(config.name, drop_path_rate=drop_path_rate, img_size=image_size, **options)
    if type(vit) is VisionTransformer and vit.pos_embed is not None and vit.reg_token is None:
        vit.__class__ = DinoVit
    # As in the paper; timm's values belong to the published weights, which are not used here.
    vit.pretrained_cfg = {**vit.pretrained_cfg, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return vit


def create_vit(name: str, pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Create timm's ViT `name` without classifier, for images of any size; `options` are passed to timm.

    Calling it returns the CLS token after the final norm, or without a CLS token (SigLIP) the pooled patches. It is a
    timm VisionTransformer (DINO, DINOv2, MAE, DeiT, CLIP, SigLIP) or Eva (DINOv3, EVA02). Raises UserError if timm does
    not know the name, the download fails, or the model has neither CLS token nor attention pooling.
    """
    no_vit = UserError(
        f"The model {name!r} is not a plain ViT with a CLS token or attention pooling: choose one such as "
        "vit_small_patch16_224."
    )
    options = {"num_classes": 0, "dynamic_img_size": True, **options}
    try:
        try:
            vit: VisionTransformer = timm.create_model(name, pretrained=pretrained, global_pool="token", **options)
        except AssertionError:  # it has no CLS token: accepted below if its own pooling is by attention
            vit = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:  # the options only exist for ViTs
        raise no_vit from error
    except (EntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise UserError(
            f"The weights of {name!r} cannot be fetched from the Hugging Face hub "
            f"({first_line(error).split('. ')[0]}): check the network and the name; weights that were fetched before "
            "are found without a network."
        ) from error
    except (RuntimeError, AssertionError, OSError, ValueError) as error:
        hint = "" if timm.is_model(name.split(".")[0]) else "; `timm.list_models('vit*')` lists the names"
        raise UserError(
            f"timm cannot make the backbone {name!r} ({first_line(error)}): check the name and its options{hint}."
        ) from error
    # A model without final norm has one after pooling instead, for the mean of the patches.
    plain = isinstance(vit, VisionTransformer | Eva) and isinstance(vit.patch_embed, PatchEmbed)
    if not plain or isinstance(vit.norm, nn.Identity) or (vit.cls_token is None and vit.attn_pool is None):
        raise no_vit
    tag = vit.pretrained_cfg.get("tag")
    if isinstance(vit, VisionTransformerDistilled):
        vit.__class__ = ClsDistilledVit
    elif tag == "dino" or (tag == "lvd142m" and vit.num_prefix_tokens == 1):
        vit.__class__ = DinoVit
    return vit


def patch_size(vit: VisionTransformer) -> int:
    """Side of a ViT's square patches, in pixels."""
    return int(vit.patch_embed.patch_size[0])


def mean_and_std(vit: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel (RGB in 0 to 1) that normalize a ViT's inputs."""
    config = vit.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


@contextlib.contextmanager
def masked_patches(vit: VisionTransformer, masked: Tensor, token: Tensor) -> Iterator[None]:
    """In its block, `vit` sees a `token` [C] instead of the patches that are `masked`, bool [B, h, w].

    The token takes the place of a patch's embedding before its position is added.
    """

    def replace(_module: nn.Module, _inputs: Any, patches: Tensor) -> Tensor:
        return torch.where(masked.reshape(*patches.shape[:-1], 1), token.to(patches.dtype), patches)

    hook = vit.patch_embed.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


class VitOutputs(nn.Module):
    """All outputs of a student, from one forward pass of a timm ViT.

    Takes normalized images [B, 3, H, W] float32; returns features [B, h, w, C] (patch tokens after the final norm),
    attention [B, heads, h, w] (softmaxed CLS-to-patch attention of the last block, without CLS and registers) and
    embedding [B, C] (the CLS token after the final norm). Where patches are pooled by attention instead (SigLIP), the
    pooling query takes CLS's place: the attention is its own, the embedding is what it pools. Raises UserError for a
    ViT whose blocks do not each compute exactly one attention.

    The attention of the blocks stays fused: only one row is computed again, in O(N).
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        for module in vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True  # TIMM_FUSED_ATTN=0 would hide query and key from LastAttention

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        pool = self.vit.attn_pool
        with LastAttention() as last:
            tokens = self.vit.forward_features(images)
            embedding = tokens[:, 0] if pool is None else self.vit.forward_head(tokens)
        if last.count != len(self.vit.blocks) + (pool is not None):
            raise UserError(
                f"The blocks of {self.vit.pretrained_cfg['architecture']} do not compute one attention each: choose "
                "a ViT such as vit_small_patch16_224."
            )
        size, prefix = patch_size(self.vit), self.vit.num_prefix_tokens
        grid = (images.shape[-2] // size, images.shape[-1] // size)
        features = tokens[:, prefix:].unflatten(1, grid)
        row = last.first_row()[:, :, -grid[0] * grid[1] :]  # the pooling query does not see the tokens before patches
        return features, row.unflatten(2, grid), embedding


class LastAttention(TorchFunctionMode):
    """Records query and key of the last attention that is computed in its `with` block.

    timm's blocks differ in how they compute the two (one projection or several, biases, norms, rotary embeddings), but
    all pass them to torch's `scaled_dot_product_attention`. With `fused_attn` off they compute the whole matrix with
    `Tensor.softmax`, which is recorded instead. `count` is the number of attentions.
    """

    query: Tensor
    key: Tensor
    matrix: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.matrix = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            self.count += 1
            self.query, self.key = args[:2]
        result = function(*args, **(kwargs or {}))
        if function is Tensor.softmax:
            self.count += 1
            self.matrix = result
        return result

    def first_row(self) -> Tensor:
        """Softmaxed attention of the first query, that of CLS or of the pooling, to all tokens: [B, heads, N]."""
        if self.matrix is not None:
            return self.matrix[:, :, 0]
        # At least fp32, whatever the ViT's precision: this row is cheap, and masks are made from it.
        precision = torch.promote_types(self.query.dtype, torch.float32)
        query, key = self.query[:, :, 0, None].to(precision), self.key.to(precision)
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
        weights: Tensor = scores.softmax(dim=-1)[:, :, 0]
        return weights


def first_line(error: BaseException) -> str:
    """First line of an error's message without its period, to quote in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
