"""Losses, one value per image, always computed in float32.

Per image, because a loss that sums over the batch first (as SMP's Dice does) changes when the same global batch is cut
into other micro-batches or ranks. The mean over images does not.

Both kinds of task run through one set of formulas: logits (B, C, H, W) with C = 1 (sigmoid, one foreground class) or
C = classes (softmax), and masks (B, H, W) of class indices, in which ``ignore_label`` marks pixels that do not count.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from distseg.config import LossConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (B, C, H, W) float32, masks (B, H, W) uint8) -> (B,) float32."""


def build_loss(cfg: LossConfig, ignore_label: int | None = None, class_weights: torch.Tensor | None = None) -> Loss:
    """The loss of a config.

    ``class_weights``: (C,) float32, for the terms that are a mean over pixels (``cross_entropy``, ``focal``).
    """

    def loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        counted = torch.ones_like(masks, dtype=torch.bool) if ignore_label is None else masks != ignore_label
        labels = torch.where(counted, masks, 0).long()
        if cfg.name == "lovasz":
            return lovasz(logits, masks, ignore_label)
        pixels = regions = torch.zeros(len(masks), device=logits.device)
        if cfg.name in ("bce", "cross_entropy", "focal", "bce_dice", "cross_entropy_dice"):
            weights = counted.float()
            if class_weights is not None:
                weights = weights * class_weights.to(logits.device)[labels]
            if cfg.boundary_weight:
                weights = weights * (1 + cfg.boundary_weight * near_boundary(masks, cfg.boundary_reach))
            pixels = over_pixels(cross_entropy(logits, labels, gamma=_gamma(cfg)), weights)
        if cfg.name in ("dice", "jaccard", "tversky", "bce_dice", "cross_entropy_dice"):
            regions = over_regions(logits, labels, counted, *_region_weights(cfg))
        if cfg.name in ("bce_dice", "cross_entropy_dice"):
            return (1 - cfg.dice_weight) * pixels + cfg.dice_weight * regions
        return pixels + regions

    return loss


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, gamma: float = 0.0) -> torch.Tensor:
    """Logits (B, C, H, W), labels (B, H, W) int64 -> (B, H, W): binary for C = 1, else categorical cross-entropy.

    ``gamma`` > 0 is the focal loss (Lin et al. 2017): each pixel weighted by (1 - its probability) ** gamma.
    """
    if logits.shape[1] == 1:
        each = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="none")
    else:
        each = F.cross_entropy(logits, labels, reduction="none")
    if not gamma:
        return each
    missed = -torch.expm1(-each)  # 1 - probability
    return each * missed.clamp_min(1e-12) ** gamma  # at 0, a power below 1 has no gradient


def over_pixels(each: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, H, W) losses and weights -> (B,) weighted means; 0 for an image without a pixel that counts."""
    return (each * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-12)


def over_regions(
    logits: torch.Tensor,
    labels: torch.Tensor,
    counted: torch.Tensor,
    false_positives: float,
    false_negatives: float,
) -> torch.Tensor:
    """1 - soft Tversky index (Salehi et al. 2017), mean over the classes in the image's truth: -> (B,) in [0, 1].

    Weights 0.5 and 0.5 make it Dice (Milletari et al. 2016), 1 and 1 Jaccard. One pixel is added above and below, so an
    empty target has a gradient, towards predicting nothing. For C = 1 the one class always counts.
    """
    if logits.shape[1] == 1:
        probabilities, truth = logits.sigmoid(), labels[:, None].float()
    else:
        probabilities = logits.softmax(1)
        truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    mask = counted[:, None].float()
    probabilities, truth = probabilities * mask, truth * mask
    hits = (probabilities * truth).sum((2, 3))
    excess, missed = probabilities.sum((2, 3)) - hits, truth.sum((2, 3)) - hits
    index = (hits + 0.5) / (hits + false_positives * excess + false_negatives * missed + 0.5)
    if logits.shape[1] == 1:
        return 1 - index[:, 0]
    present = (truth.sum((2, 3)) > 0).float()
    return ((1 - index) * present).sum(1) / present.sum(1).clamp_min(1)


def lovasz(logits: torch.Tensor, masks: torch.Tensor, ignore_label: int | None) -> torch.Tensor:
    """Lovasz hinge (C = 1) or softmax (Berman et al. 2018), SMP's, image by image: -> (B,)."""
    from segmentation_models_pytorch.losses import LovaszLoss  # here: importing SMP takes seconds

    mode = "binary" if logits.shape[1] == 1 else "multiclass"
    loss = LovaszLoss(mode, per_image=True, ignore_index=ignore_label, from_logits=True)
    images = [loss(logits[i : i + 1], masks[i : i + 1].long()) for i in range(len(masks))]
    return torch.stack([image.sum() for image in images])  # one that is all ignored: an empty tensor for C > 1


def near_boundary(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Masks (B, H, W) -> (B, H, W) float32: 1 where another label stands within ``reach`` pixels (a square), else 0."""
    values = masks[:, None].float()
    side = 2 * reach + 1
    highest = F.max_pool2d(values, side, stride=1, padding=reach)
    lowest = -F.max_pool2d(-values, side, stride=1, padding=reach)
    return (highest != lowest)[:, 0].float()


def median_frequency_weights(class_pixels: torch.Tensor) -> torch.Tensor:
    """Pixels per class (C,) -> weights (C,) float32: median frequency / frequency (Eigen and Fergus 2015).

    A class without pixels gets weight 0: there is nothing to learn it from. The others' weights have mean 1.
    """
    present = class_pixels > 0
    weights = torch.zeros(len(class_pixels))
    weights[present] = (class_pixels[present].float().median() / class_pixels[present]).float()
    return weights / weights[present].mean()


def _gamma(cfg: LossConfig) -> float:
    return cfg.focal_gamma if cfg.name == "focal" else 0.0


def _region_weights(cfg: LossConfig) -> tuple[float, float]:
    """Weights of false positives and of false negatives."""
    if cfg.name == "tversky":
        return 1 - cfg.tversky_recall, cfg.tversky_recall
    return (1.0, 1.0) if cfg.name == "jaccard" else (0.5, 0.5)
