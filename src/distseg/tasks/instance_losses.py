"""What torchvision's detectors learn from and the names of their losses, without loading torchvision (four seconds)."""

import torch

from distseg.data.targets import Targets

LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
"""torchvision's names: class and box of a proposal, its mask, and the two by which proposals are learnt."""


def torchvision_target(targets: Targets, device: torch.device) -> dict[str, torch.Tensor]:
    """Targets as torchvision's detectors take them: label 0 is nothing at all."""
    return {
        "boxes": targets.boxes.to(device, non_blocking=True),
        "labels": targets.labels.to(device, non_blocking=True) + 1,
        "masks": targets.masks.to(device, non_blocking=True),
    }
