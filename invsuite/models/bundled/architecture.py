"""The bundled architectures, small enough to commit and to invert on a CPU: timm's and, for DETR, transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from invsuite.data.scenes import CLASSES

if TYPE_CHECKING:
    from transformers import DetrForObjectDetection

IMAGE_SIZE = 96
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

VIT_ARGS: dict[str, Any] = {
    "img_size": IMAGE_SIZE,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "num_classes": len(CLASSES),
}

# the two pyramids have the same maps: 24 x 24 places of 24 channels, 12 x 12 of 48, 6 x 6 of 96, 3 x 3 of 192
SWIN_ARGS: dict[str, Any] = {
    "img_size": IMAGE_SIZE,
    "patch_size": 4,
    "window_size": 6,
    "embed_dim": 24,
    "depths": (2, 2, 1, 1),
    "num_heads": (2, 4, 8, 16),
    "mlp_ratio": 2.0,
    "drop_path_rate": 0.0,
    "num_classes": len(CLASSES),
}

CONVNEXT_ARGS: dict[str, Any] = {
    "patch_size": 4,
    "dims": (24, 48, 96, 192),
    "depths": (2, 2, 1, 1),
    "ls_init_value": None,  # layer scales that start at 1e-6 take longer than this training to grow
    "num_classes": len(CLASSES),
}

DETR_ARGS: dict[str, Any] = {
    # resnet10t cut at stride 8: a 12 x 12 map of 128 channels at 96 px
    "backbone_config": {
        "model_type": "timm_backbone",
        "backbone": "resnet10t",
        "num_channels": 3,
        "features_only": True,
        "use_pretrained_backbone": False,
        "out_indices": [2],
    },
    "num_queries": 12,
    "d_model": 128,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "dropout": 0.0,
    "num_labels": len(CLASSES),
}


def build_vit() -> VisionTransformer:
    """Return a randomly initialised ViT for 96 px scenes: patch 8 (12 x 12 tokens and a class token), 6 blocks."""
    return VisionTransformer(**VIT_ARGS)


def build_swin() -> SwinTransformer:
    """Return a randomly initialised Swin Transformer for 96 px scenes: patch 4, windows of 6 x 6, 6 blocks."""
    return SwinTransformer(**SWIN_ARGS)


def build_convnext() -> ConvNeXt:
    """Return a randomly initialised ConvNeXt for 96 px scenes: patch 4, 6 blocks."""
    return ConvNeXt(**CONVNEXT_ARGS)


def build_detr() -> DetrForObjectDetection:
    """Return a randomly initialised DETR for 96 px scenes; transformers freezes its batch normalisation."""
    from transformers import DetrConfig, DetrForObjectDetection  # seconds that the ViT need not wait for

    return DetrForObjectDetection(DetrConfig(**DETR_ARGS))
