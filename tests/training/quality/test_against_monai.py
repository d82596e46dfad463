"""Our loss and metrics beside MONAI's, where both say something: MONAI's know no pixels that are
unknown, and count a class that is nowhere as perfect or as absent by its own rules."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from monai.metrics import compute_dice, compute_iou
from torch.nn import functional as F

from training.fitting.loss import segmentation_loss
from training.quality.metrics import overlap

C = 4


def random_masks(shown=C):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, shown, (2, 13, 17), generator=generator)


@pytest.mark.parametrize("shown", [C, 3])
def test_the_dice_loss_is_monais_over_the_classes_that_are_there(shown):
    logits = torch.randn(2, C, 13, 17, generator=torch.Generator().manual_seed(0))
    masks = random_masks(shown)
    theirs = DiceLoss(
        to_onehot_y=True, softmax=True, batch=True, smooth_nr=1, smooth_dr=1, reduction="none"
    )(logits, masks[:, None])
    ours = segmentation_loss(logits, masks, torch.ones(C), 1.0)
    ours = ours - F.cross_entropy(logits, masks)
    torch.testing.assert_close(ours, theirs.flatten()[:shown].mean())


def test_dice_and_iou_are_monais():
    truth, predicted = random_masks()[0], random_masks()[1]
    counts = overlap(truth.numpy().astype(np.uint8), predicted.numpy().astype(np.uint8), C)
    one_hot = [F.one_hot(mask, C).permute(2, 0, 1)[None] for mask in (predicted, truth)]
    np.testing.assert_allclose(counts.dice(), compute_dice(*one_hot)[0], rtol=1e-6)
    np.testing.assert_allclose(counts.iou(), compute_iou(*one_hot)[0], rtol=1e-6)
