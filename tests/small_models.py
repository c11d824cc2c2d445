"""The bundled architectures at 48 px, narrow, shallow and with random weights: for tests that fit and score often.

A suite names them as ``module:FILE.py:FUNCTION``, as a user would name a network of the own.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from invsuite.data.scenes import CLASSES
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.bundled.architecture import DETR_ARGS, MEAN, STD, VIT_ARGS
from invsuite.models.timm import timm_chain
from invsuite.models.transformers import detector_chain

SIZE = (48, 48)
ORIGIN = WeightsOrigin("a test", "0" * 64)


def vit() -> Model:
    """Return a ViT of three blocks: stages embed, block01, block02, block03, head."""
    torch.manual_seed(0)
    narrow = {"img_size": SIZE, "embed_dim": 32, "depth": 3, "num_heads": 2}
    network = VisionTransformer(**VIT_ARGS | narrow).eval().requires_grad_(False)
    return timm_chain("vit", network, SIZE, MEAN, STD, ORIGIN)


def detr() -> Model:
    """Return a DETR of one encoder layer and one decoder layer: stages backbone, encoder, decoder, prediction."""
    from transformers import DetrConfig, DetrForObjectDetection  # seconds that the ViT need not wait for

    torch.manual_seed(0)
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    narrow = {"num_queries": 5, "d_model": 32} | layers
    network = DetrForObjectDetection(DetrConfig(**DETR_ARGS | narrow)).eval().requires_grad_(False)
    return detector_chain("detr", network, SIZE, MEAN, STD, ORIGIN, classes=CLASSES)
