"""Does the exported file do what the model does? Both see the same images; nothing is shipped unless they agree."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from distseg.errors import ParityError
from distseg.records import Parity
from distseg.tasks.predictor import Predictor


class Output(NamedTuple):
    """What a model makes of images (B, 3, H, W)."""

    masks: torch.Tensor
    """uint8 (B, H, W)."""
    probabilities: torch.Tensor
    """float32 (B, C, H, W)."""
    logits: torch.Tensor | None
    """float32 (B, C, H, W)."""


Model = Callable[[torch.Tensor], Output]
"""uint8 images (B, 3, H, W) -> what an eager model, or a file, makes of them."""


class Rule(NamedTuple):
    """What is tried at one precision, and how far an exported file may be from the model in fp32."""

    probability: float
    """Largest difference of a probability: folded BatchNorm, other kernels and another order of sums round apart."""
    logit: float
    """Largest difference of a logit, where the file gives them: they tell where probabilities are all but 0 or 1."""
    of_largest_logit: float
    """More is allowed of a logit by this part of the largest |logit|, for rounding is relative."""
    of_own_error: float
    """More is allowed, of both, by this many times what the model itself loses at this precision."""
    cases: tuple[tuple[int, int, int], ...]
    """(images, height, width) tried: one pixel, odd sizes, smaller and larger than what the network sees."""


_CASES = ((1, 1, 1), (3, 31, 1003), (1, 200, 300), (2, 512, 512), (1, 1280, 1918))
# A probability moves by at most a quarter of what a logit does, hence four times as much of a logit. Measured on a CPU
# with a dozen networks, trained and random ones, logits up to 640: fp32, up to 6e-6 of the largest logit, and a GPU's
# kernels get room; bf16, where each layer rounds to 0.4 %, up to 2.2 times the model's own error.
RULES = {
    "fp32": Rule(probability=1e-3, logit=4e-3, of_largest_logit=1e-3, of_own_error=0.0, cases=_CASES),
    "bf16": Rule(probability=1e-2, logit=4e-2, of_largest_logit=1e-2, of_own_error=3.0, cases=_CASES),
}
ONNX_RULE = RULES["fp32"]._replace(probability=1e-2)  # other kernels: up to 5e-4 was measured on trained networks


def eager(predictor: Predictor) -> Model:
    """The predictor as it is in PyTorch, in eval mode."""
    predictor.eval()

    def run(images: torch.Tensor) -> Output:
        logits = predictor.logits(images)
        return Output(predictor.labels_of(logits), predictor.probabilities_of(logits), logits)

    return run


def check(
    model: Model,
    exported: Model,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    what: str = "model.ts",
    rule: Rule | None = None,
) -> Parity:
    """Compares masks, probabilities and logits on random images; ParityError names the first case that fails.

    Probabilities and logits must be within the tolerances, and labels equal wherever the model is decided: its two best
    probabilities further apart than the tolerance can account for. ``model`` and ``exported`` are on ``device``; in
    bf16 the file runs under autocast and is held against the model in fp32. ``rule``: None for that of the precision.
    """
    rule = rule or RULES[precision]
    generator = torch.Generator().manual_seed(0)
    cases, agreement = [], 1.0
    probabilities: list[tuple[float, float]] = []  # difference and tolerance in each case
    logits: list[tuple[float, float]] = []
    for turn, (number, height, width) in enumerate(rule.cases):
        case = f"{number}x3x{height}x{width}"
        where = f"{what}, {device} {precision}, {case}"
        # every other case dark: a network may decide by its input
        brightest = 256 if turn % 2 else 32
        images = torch.randint(0, brightest, (number, 3, height, width), dtype=torch.uint8, generator=generator)
        images = images.to(device)
        with torch.inference_mode(), _without_tf32():
            wanted = model(images)
            with autocast(device, precision):
                got = exported(images)
                own = model(images) if rule.of_own_error else wanted
        if got.masks.shape != wanted.masks.shape or got.masks.dtype != torch.uint8:
            raise ParityError(f"{where}: got {got.masks.dtype} {tuple(got.masks.shape)}, want uint8 masks")
        tolerance = rule.probability + rule.of_own_error * _apart(own.probabilities, wanted.probabilities)
        difference = _apart(got.probabilities, wanted.probabilities)
        same = got.masks == wanted.masks
        wrong = int((~same & (_margin(wanted.probabilities) > 2 * tolerance)).sum())
        if not difference <= tolerance or wrong:  # NaN fails too
            raise ParityError(
                f"{where}: probabilities differ by {difference:.2g} (want {tolerance:.2g}), {wrong} labels differ "
                "where the model is decided (want 0); nothing was written"
            )
        cases.append(case)
        probabilities.append((difference, tolerance))
        agreement = min(agreement, same.float().mean().item())
        if got.logits is not None and wanted.logits is not None and own.logits is not None:
            largest = float(wanted.logits.abs().max())
            tolerance = rule.logit + rule.of_largest_logit * largest
            tolerance += rule.of_own_error * _apart(own.logits, wanted.logits)
            difference = _apart(got.logits, wanted.logits)
            if not difference <= tolerance:
                raise ParityError(
                    f"{where}: logits differ by {difference:.2g} (want {tolerance:.2g}, the largest is {largest:.2g}); "
                    "nothing was written"
                )
            logits.append((difference, tolerance))
    return Parity(
        device=device,
        precision=precision,
        cases=tuple(cases),
        max_logit_difference=max((difference for difference, _ in logits), default=None),
        logit_tolerance=max((tolerance for _, tolerance in logits), default=None),
        max_probability_difference=max(difference for difference, _ in probabilities),
        probability_tolerance=max(tolerance for _, tolerance in probabilities),
        mask_agreement=agreement,
    )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two elements."""
    return float((one - other).abs().max())


def _margin(probabilities: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H, W): how far the best class is before the second; for one channel, twice |p - 0.5|."""
    if probabilities.shape[1] == 1:
        return (2 * probabilities[:, 0] - 1).abs()
    best = probabilities.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def devices() -> Sequence[str]:
    """The CPU and each GPU of this machine."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def _without_tf32() -> AbstractContextManager[None]:
    """fp32 as it says: a GPU's convolutions would round to ten bits, which folded and plain weights do apart.

    Rounding so on a CPU moved a trained network's probabilities by 0.02. No GPU has tried this.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return context


def autocast(device: str, precision: str) -> "torch.autocast | nullcontext[None]":
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
