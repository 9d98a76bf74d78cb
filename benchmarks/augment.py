"""Milliseconds to augment an image and its mask, policy by policy, against the same transforms in bare albumentations.

    python benchmarks/augment.py [--rounds 21] [--images 96]

CPU time of one image on one core, in turns over the same images. Ours: seeded for each sample. Bare: one ``A.Compose``
of the library's own transforms with the same numbers, unseeded, as it is usually called; for the policies that draw
single operations (``adaptive`` at level 0.7), one ready-made ``A.Compose`` of those that ours draws for that sample.
``elastic``: a deformation of the same strength and smoothness, ours against the library's.

Prints one JSON line a figure: both medians in milliseconds, the median of the rounds' ratios ours / bare, its 95 %
interval by the order statistics of the median, and ``held``: whether the whole interval is at the target or below.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence

import albumentations as A
import cv2
import numpy as np

from distseg.augment.canvas import Canvas
from distseg.augment.keyed_random import Pixels, SeededRandom, key_seed
from distseg.augment.operations import OPERATIONS
from distseg.augment.policies import FIXED, POLICIES, RULES, Augmenter
from distseg.augment.warps import Elastic
from distseg.config import AugmentConfig

TARGETS = {"elastic": 0.5}
TARGET = 1.10
LEVEL = 0.7  # of policy `adaptive`
BINS = 20  # strengths are rounded as ours are, so that few Composes are built

Sample = tuple[Pixels, Pixels]
Call = Callable[[], object]


def photographs(number: int, side: int) -> list[Sample]:
    """Smooth noise and a disc: nothing that is easier to warp than a photograph."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(number):
        coarse = draw.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        mask = np.zeros((side, side), np.uint8)
        cv2.circle(mask, (side // 2, side // 2), side // 3, 1, -1)
        found.append((cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), mask))
    return found


def library_elastic(shift: float, smoothness: float, p: float, canvas: Canvas) -> A.BasicTransform:
    """Of a displacement with standard deviation ``shift``, smoothed with ``smoothness``, in pixels."""
    # the library smooths noise drawn evenly from -1 to 1: standard deviation 3^-1/2 / (2 pi^1/2 sigma), times alpha
    alpha = shift * math.sqrt(3) * 2 * math.sqrt(math.pi) * smoothness
    return A.ElasticTransform(alpha=alpha, sigma=smoothness, p=p, **canvas.border)


def library_operation(name: str, strength: float, canvas: Canvas) -> A.BasicTransform:
    """As augment/operations.py, the library's own throughout."""
    if name == "elastic":
        return library_elastic(0.03 * abs(strength) * canvas.side, 0.08 * canvas.side, 1, canvas)
    if name == "grid":
        limit = 0.6 * abs(strength)
        return A.GridDistortion(num_steps=5, distort_limit=(-limit, limit), p=1, **canvas.border)
    return OPERATIONS[name](strength, canvas)


def library_policy(name: str, cfg: AugmentConfig, canvas: Canvas) -> list[A.BasicTransform]:
    """A fixed policy with the library's own transforms."""
    if name == "flips_rotate":
        rotate = A.Rotate(limit=(-cfg.flips_rotate.degrees, cfg.flips_rotate.degrees), p=0.5, **canvas.border)
        return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), rotate]
    if name != "nine":
        return list(FIXED[name](cfg, canvas))
    nine, border = cfg.nine, canvas.border
    return [
        A.HorizontalFlip(p=nine.horizontal_p),
        A.VerticalFlip(p=nine.vertical_p),
        A.RandomRotate90(p=nine.rotate90_p),
        A.Affine(
            translate_percent={"x": (-nine.shift, nine.shift), "y": (-nine.shift, nine.shift)},
            scale=(1 - nine.scale, 1 + nine.scale),
            rotate=(-nine.degrees, nine.degrees),
            balanced_scale=True,
            p=nine.shift_scale_rotate_p,
            **border,
        ),
        library_elastic(
            nine.elastic_shift * canvas.side, nine.elastic_smoothness * canvas.side, nine.elastic_p, canvas
        ),
        A.GaussianBlur(sigma_limit=(0.1, nine.blur_sigma), blur_limit=0, p=nine.blur_p),
        A.GaussNoise(std_range=(0, nine.noise_std), p=nine.noise_p),
        A.OpticalDistortion(distort_limit=(-nine.optical_limit, nine.optical_limit), p=nine.optical_p, **border),
        A.GridDistortion(num_steps=5, distort_limit=(-nine.grid_limit, nine.grid_limit), p=nine.grid_p, **border),
    ]


def cpu_ms(calls: Sequence[Call]) -> float:
    """Mean CPU time of a call."""
    start = time.process_time()
    for call in calls:
        call()
    return 1e3 * (time.process_time() - start) / len(calls)


def composed(transform: A.Compose, sample: Sample) -> Call:
    return lambda: transform(image=sample[0], mask=sample[1])


class Policy:
    """One policy at one size, ours and bare."""

    def __init__(self, name: str, samples: Sequence[Sample]) -> None:
        height, width = samples[0][1].shape
        self._cfg, self._samples, self._canvas = AugmentConfig(policy=name), samples, Canvas(width, height)
        self._augmenter = Augmenter(self._cfg, (width, height))
        self._fixed = None
        if name in FIXED:
            self._fixed = A.Compose(library_policy(name, self._cfg, self._canvas), strict=True)
        self._chance = SeededRandom()
        self._drawn: dict[tuple[tuple[str, int], ...], A.Compose] = {}

    def ours(self, seeds: Sequence[int]) -> list[Call]:
        def call(sample: Sample, seed: int) -> Call:
            return lambda: self._augmenter(sample[0], (sample[1],), seed, LEVEL)

        return [call(*each) for each in zip(self._samples, seeds, strict=True)]

    def bare(self, seeds: Sequence[int]) -> list[Call]:
        return [composed(self._compose(seed), sample) for sample, seed in zip(self._samples, seeds, strict=True)]

    def _compose(self, seed: int) -> A.Compose:
        if self._fixed is not None:
            return self._fixed
        self._chance.start(seed)
        chance = self._chance.python
        drawn = RULES[self._cfg.policy](self._cfg, chance, LEVEL)
        key = tuple((name, round(BINS * strength) * chance.choice((-1, 1))) for name, strength in drawn)
        if key not in self._drawn:
            transforms = [library_operation(name, part / BINS, self._canvas) for name, part in key]
            self._drawn[key] = A.Compose(transforms, strict=True)
        return self._drawn[key]


def report(figure: str, size: int, pairs: Sequence[tuple[float, float]]) -> None:
    """One line: the median of the rounds' ratios and its interval by the order statistics of the median."""
    target = TARGETS.get(figure, TARGET)
    ratios = sorted(ours / bare for ours, bare in pairs)
    rounds = len(ratios)
    reach = math.ceil(0.98 * math.sqrt(rounds))  # 1.96 * sqrt(rounds) / 2 places on either side of the median
    low, high = ratios[max(0, rounds // 2 - reach)], ratios[min(rounds - 1, rounds // 2 + reach)]
    ours_ms, bare_ms = np.median(np.array(pairs), axis=0)
    line = {"ours_ms": ours_ms, "bare_ms": bare_ms, "ratio": ratios[rounds // 2], "low95": low, "high95": high}
    rounded = {name: round(float(value), 4) for name, value in line.items()}
    print(json.dumps({"figure": figure, "size": size, **rounded, "target": target, "held": high <= target}), flush=True)


def policy_figure(name: str, side: int, samples: Sequence[Sample], rounds: int) -> None:
    policy = Policy(name, samples)
    pairs = []
    for number in range(rounds + 1):
        seeds = [key_seed(0, number, str(each)) for each in range(len(samples))]
        ours, bare = policy.ours(seeds), policy.bare(seeds)
        if name in RULES:
            cpu_ms(ours)  # builds what it keeps for these strengths, which in a run is soon all built
        pairs.append((cpu_ms(ours), cpu_ms(bare)))
    report(name, side, pairs[1:])  # the first fills caches


def elastic_figure(side: int, samples: Sequence[Sample], rounds: int) -> None:
    canvas = Canvas(side, side)
    shift, smoothness = 0.015 * side, 0.08 * side
    ours = A.Compose([Elastic(shift=shift, smoothness=smoothness, p=1, **canvas.border)], strict=True)
    bare = A.Compose([library_elastic(shift, smoothness, 1, canvas)], strict=True)
    calls = [[composed(transform, sample) for sample in samples] for transform in (ours, bare)]
    pairs = [(cpu_ms(calls[0]), cpu_ms(calls[1])) for _ in range(rounds + 1)]
    report("elastic", side, pairs[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--images", type=int, default=96, help="images a round")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--sizes", default="256,512")
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a loader process
    for side in map(int, options.sizes.split(",")):
        samples = photographs(options.images, side)
        for name in options.policies.split(","):
            policy_figure(name, side, samples, options.rounds)
        elastic_figure(side, samples[: max(1, options.images // 8)], options.rounds)


if __name__ == "__main__":
    main()
