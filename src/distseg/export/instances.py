"""A detector as a file, and whether it finds what the model finds.

Scripted, not traced: what it does depends on how many objects there are. Nothing of it is folded or frozen, so it also
computes losses, and ``evaluate`` can tell those of a test split.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torchvision.ops import box_iou

from distseg.data.codec import resize_image
from distseg.data.manifest import ShardFolder
from distseg.data.stream import InstanceEvalBatches, batch_loader, open_split
from distseg.errors import DataError, ParityError
from distseg.records import Parity, Score
from distseg.tasks.instance_predictor import InstancePredictor
from distseg.tasks.instance_scoring import measure_instances

SIZES = ((1, 1), (31, 103), (200, 300), (513, 385))
"""(height, width) of the images tried beside photographs as stored: odd ones, one pixel, smaller and larger ones."""
PHOTOGRAPHS = 2
SCORE_TOLERANCE = 1e-3
"""Largest difference of the scores of an object."""
BOX_TOLERANCE = 0.002
"""Largest difference of its edges, as a part of the image's longest side; at least one pixel."""
OVERLAP_MIN = 0.95
"""Smallest IoU of its masks: a pixel at one half may fall to either side."""
_CLOSE_CALLS = 0.02
"""Part of the objects that may lack a partner: which of two that overlap stays may hang on a rounding."""


def script_instances(predictor: InstancePredictor) -> torch.jit.ScriptModule:
    """A script module that does what the predictor does; the predictor itself stays as it was, in eval mode."""
    predictor.eval()
    network: Any = predictor.network
    warned, network._has_warned = network._has_warned, True  # of scripted detectors' two outputs, which we know
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`torch.jit")  # deprecated, and works; see README
            scripted: torch.jit.ScriptModule = torch.jit.script(predictor)
            return scripted
    finally:
        network._has_warned = warned


def check_instances(
    predictor: InstancePredictor,
    exported: torch.jit.ScriptModule,
    photographs: Sequence[torch.Tensor],
    device: str = "cpu",
) -> Parity:
    """Compares objects found in photographs, uint8 (3, H, W), at their own size and at odd ones, and in noise.

    Both are on ``device``.

    Both look at everything that they take for an object at all, with no score too low, so that an unsure model is
    compared too. ParityError names the first case that fails.
    """
    heads: list[Any] = [module.network.roi_heads for module in (predictor, exported)]
    threshold = heads[0].score_thresh
    cases, score, overlap = [], 0.0, 1.0
    predictor.eval()
    for head in heads:
        head.score_thresh = 0.0
    try:
        for name, image in _images(photographs):
            with torch.inference_mode():
                wanted, got = (_on_cpu(each(image[None].to(device))[0]) for each in (predictor, exported))
            worst = _compared(wanted, got, name, max(image.shape[1:]))
            cases.append(name)
            score, overlap = max(score, worst[0]), min(overlap, worst[1])
    finally:
        for head in heads:
            head.score_thresh = threshold
    return Parity(
        device=device,
        precision="fp32",
        cases=tuple(cases),
        max_logit_difference=None,
        max_probability_difference=score,
        probability_tolerance=SCORE_TOLERANCE,
        mask_agreement=overlap,
    )


def photographs_of(shards: ShardFolder, fold: int | None) -> list[torch.Tensor]:
    """The first validation images, uint8 (3, H, W), to try a file on."""
    reader = open_split(shards, training=False, fold=fold)
    batches = InstanceEvalBatches(reader, batch=PHOTOGRAPHS, rank=0, world_size=1)
    return list(batches[0].images)


def score_instance_file(module: torch.jit.ScriptModule, shards: ShardFolder, fold: int | None) -> Score:
    """AP and losses of an exported file on the validation samples; DataError when one of them cannot be used."""
    reader = open_split(shards, training=False, fold=fold)
    batches = InstanceEvalBatches(reader, batch=1, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure_instances(module, loader, shards.manifest, torch.device("cpu"), lambda value: [value])
    if bad:
        raise DataError(f"{shards.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return score


def _images(photographs: Sequence[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """Named cases."""
    cases = [(f"photograph {number}", image) for number, image in enumerate(photographs, 1)]
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        if photographs:
            pixels = resize_image(photographs[0].permute(1, 2, 0).contiguous().numpy(), (width, height))
            cases.append((f"photograph 1 at {width}x{height}", torch.from_numpy(pixels).permute(2, 0, 1)))
        noise = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        cases.append((f"noise of {width}x{height}", noise))
    return cases


def _compared(
    wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor], case: str, side: int
) -> tuple[float, float]:
    """Largest difference of a score and smallest IoU of masks over the pairs; ParityError when too few are pairs."""
    if got["masks"].shape[1:] != wanted["masks"].shape[1:] or got["masks"].dtype != torch.uint8:
        raise ParityError(
            f"exported model, {case}: got masks {got['masks'].dtype} {tuple(got['masks'].shape)}, want uint8 ones of "
            f"{tuple(wanted['masks'].shape[1:])}"
        )
    count, other = len(wanted["labels"]), len(got["labels"])
    pairs, score, overlap = 0, 0.0, 1.0
    free = torch.ones(other, dtype=torch.bool)
    near = box_iou(wanted["boxes"], got["boxes"])
    for number in range(count):
        same = free & (got["labels"] == wanted["labels"][number])
        same &= (got["scores"] - wanted["scores"][number]).abs() <= SCORE_TOLERANCE
        same &= (got["boxes"] - wanted["boxes"][number]).abs().amax(dim=1) <= max(1.0, BOX_TOLERANCE * side)
        if not same.any():
            continue
        partner = int(torch.where(same, near[number], -1.0).argmax())
        iou = _mask_iou(wanted["masks"][number], got["masks"][partner])
        if iou < OVERLAP_MIN:
            continue
        free[partner] = False
        pairs += 1
        overlap = min(overlap, iou)
        score = max(score, float((got["scores"][partner] - wanted["scores"][number]).abs()))
    if pairs < (1 - _CLOSE_CALLS) * max(count, other):
        raise ParityError(
            f"exported model, {case}: {pairs} of {max(count, other)} objects are the model's own (same class, scores "
            f"within {SCORE_TOLERANCE}, masks with an IoU from {OVERLAP_MIN}); nothing was written"
        )
    return score, overlap


def _on_cpu(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in found.items()}


def _mask_iou(one: torch.Tensor, other: torch.Tensor) -> float:
    """1 for two empty masks: objects smaller than a pixel."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0
