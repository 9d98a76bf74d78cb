"""Does the exported file do what the model does? Both see the same images; nothing is shipped unless they agree."""

from collections.abc import Sequence

import torch

from distseg.errors import ParityError
from distseg.records import Parity
from distseg.tasks.predictor import Predictor

SIZES = ((1, 1), (31, 103), (200, 300), (512, 512))
"""(height, width) of the images tried: odd ones, one pixel, larger and smaller than what the network sees."""
BATCHES = (1, 3)
PROBABILITY_TOLERANCE = 1e-3
"""Largest difference of a probability; freezing folds BatchNorm into the convolutions, which rounds differently."""
AGREEMENT_MIN = 0.999
"""Smallest part of pixels with equal labels; a pixel on the threshold may fall to either side."""


def check(
    predictor: Predictor,
    exported: torch.jit.ScriptModule,
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = BATCHES,
) -> Parity:
    """Compares masks, probabilities and logits on random images; ParityError names the first case that fails."""
    predictor.eval()
    generator = torch.Generator().manual_seed(0)
    cases, logit, probability, agreement = [], 0.0, 0.0, 1.0
    for height, width in sizes:
        for batch in batches:
            case = f"{batch}x3x{height}x{width}"
            images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
            with torch.inference_mode():
                masks, wanted = exported(images), predictor(images)
                difference = (exported.probabilities(images) - predictor.probabilities(images)).abs().max().item()
                logit = max(logit, (exported.logits(images) - predictor.logits(images)).abs().max().item())
            if masks.shape != wanted.shape or masks.dtype != torch.uint8:
                raise ParityError(f"exported model, {case}: got {masks.dtype} {tuple(masks.shape)}, want uint8 masks")
            same = (masks == wanted).float().mean().item()
            if difference > PROBABILITY_TOLERANCE or same < AGREEMENT_MIN:
                raise ParityError(
                    f"exported model, {case}: probabilities differ by {difference:.2g} (want {PROBABILITY_TOLERANCE})"
                    f", {same:.4%} of pixels agree (want {AGREEMENT_MIN:.1%}); nothing was written"
                )
            cases.append(case)
            probability, agreement = max(probability, difference), min(agreement, same)
    return Parity(
        cases=tuple(cases),
        max_logit_difference=logit,
        max_probability_difference=probability,
        mask_agreement=agreement,
    )
