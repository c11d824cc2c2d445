"""Measures as plain functions of tensors; the classes use the same ones.

Images are (N, 3, H, W) in [0, 1], masks (N, H, W) bool, change maps (N, H, W). Each function gives one value per image,
NaN where it is not defined, unless it says otherwise.

Examples:
    >>> import torch
    >>> from invsuite.metrics.functional import psnr
    >>> images = torch.full((2, 3, 8, 8), 0.5)
    >>> psnr(images + 0.1, images).round(decimals=2)
    tensor([20., 20.])
"""

from invsuite.metrics.colour import chroma_gain, colour_gain, delta_e, hue_gain
from invsuite.metrics.correspondence import auc, centroid_shift, change_map, lift, share_inside
from invsuite.metrics.fidelity import ms_ssim, psnr, ssim
from invsuite.metrics.interlayer import centred_gram, debiased_cka
from invsuite.metrics.patches import affinity, cut_patches, matched_share, rank_correlation
from invsuite.metrics.segments import borders, boundary_f, edges, variance_between
from invsuite.metrics.task import jensen_shannon, top_k_agreement

__all__ = [
    "affinity",
    "auc",
    "borders",
    "boundary_f",
    "centred_gram",
    "centroid_shift",
    "change_map",
    "chroma_gain",
    "colour_gain",
    "cut_patches",
    "debiased_cka",
    "delta_e",
    "edges",
    "hue_gain",
    "jensen_shannon",
    "lift",
    "matched_share",
    "ms_ssim",
    "psnr",
    "rank_correlation",
    "share_inside",
    "ssim",
    "top_k_agreement",
    "variance_between",
]
