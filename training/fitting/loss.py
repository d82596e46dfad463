"""What a training step lowers: weighted cross-entropy and Dice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from acquisition.masks import UNKNOWN
from training.config import TrainConfig
from training.examples import Example


def class_weights(examples: Sequence[Example], config: TrainConfig) -> Tensor:
    """Cross-entropy weights [C]: the inverse root of each class's share of the known pixels.

    None weighs more than ``class_weight_bound`` times the commonest, and a mean pixel weighs 1.
    A class without a pixel weighs as the rarest may.
    """
    C = len(config.classes)
    counts = np.zeros(C)
    for example in examples:
        counts += np.bincount(example.mask[example.mask != UNKNOWN], minlength=C)[:C]
    share = counts / counts.sum()
    rarest = share.max() / config.class_weight_bound**2
    weights = 1 / np.sqrt(np.maximum(share, rarest))
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


def segmentation_loss(
    logits: Tensor, masks: Tensor, weights_C: Tensor, dice_weight: float
) -> Tensor:
    """Weighted cross-entropy plus Dice loss; 0 where no pixel is known.

    Args:
        logits: [B, C, h, w].
        masks: [B, h, w] int64 class indices; 255 counts nowhere.
        weights_C: [C].
        dice_weight: of the Dice loss.

    Source: Dice: Milletari et al. 2016 (arXiv 1606.04797), over the batch, its absent classes
    left out.
    """
    known = masks != UNKNOWN
    if not bool(known.any()):
        return logits.sum() * 0
    entropy = F.cross_entropy(logits, masks, weight=weights_C, ignore_index=UNKNOWN)
    if dice_weight == 0:
        return entropy
    C = logits.shape[1]
    probs = logits.softmax(dim=1) * known[:, None]
    truth = F.one_hot(masks.clamp_max(C - 1), C).permute(0, 3, 1, 2) * known[:, None]
    shared = (probs * truth).sum(dim=(0, 2, 3))  # [C]
    size = truth.sum(dim=(0, 2, 3))
    total = probs.sum(dim=(0, 2, 3)) + size
    dice_C = (2 * shared + 1) / (total + 1)
    return entropy + dice_weight * (1 - dice_C[size > 0].mean())
