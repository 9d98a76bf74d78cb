"""Run lengths of a full-size Carvana mask, against the form that Kaggle's kernels use.

    python benchmarks/rle.py

Prints one JSON line a figure: CPU milliseconds of one 1918x1280 mask, text included, and how many times faster ours is
(median of the rounds' ratios, with its 95 % interval by the order statistics of the median).
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from distseg.data import rle

Mask = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 1280, 1918
MS_MAX, FASTER_MIN = 1.0, 2.0


def car_mask(spots: int, seed: int) -> Mask:
    """A blob of a car's size with holes in it and specks around it: about 600 runs, and 5 more a spot."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (WIDTH // 2, HEIGHT // 2), (620, 300), 0, 0, 360, 1, -1)
    for x, y, radius in zip(
        draw.integers(100, WIDTH - 100, spots),
        draw.integers(250, HEIGHT - 250, spots),
        draw.integers(1, 5, spots),
        strict=True,
    ):
        cv2.circle(mask, (int(x), int(y)), int(radius), int(1 - mask[y, x]), -1)
    return mask


def usual_encode(mask: Mask) -> str:
    pixels = mask.flatten()
    pixels = np.concatenate([[0], pixels, [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def usual_decode(text: str) -> Mask:
    words = text.split()
    starts, lengths = (np.asarray(part, dtype=int) for part in (words[0::2], words[1::2]))
    starts -= 1
    ends = starts + lengths
    flat = np.zeros(HEIGHT * WIDTH, dtype=np.uint8)
    for low, high in zip(starts, ends, strict=True):
        flat[low:high] = 1
    return flat.reshape(HEIGHT, WIDTH)


def cpu_ms(call: Callable[[], Any], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) * 1e3 / times


def compare(figure: str, runs: int, ours: Callable[[], Any], usual: Callable[[], Any], rounds: int, times: int) -> None:
    cpu_ms(ours, times), cpu_ms(usual, times)
    pairs = np.array([(cpu_ms(ours, times), cpu_ms(usual, times)) for _ in range(rounds)])
    ratios = np.sort(pairs[:, 1] / pairs[:, 0])
    reach = int(np.ceil(0.98 * np.sqrt(rounds)))  # 1.96 * sqrt(rounds) / 2 places on either side of the median
    low, high = ratios[max(0, rounds // 2 - reach)], ratios[min(rounds - 1, rounds // 2 + reach)]
    ours_ms, usual_ms = np.median(pairs, axis=0)
    line = {"ours_ms": ours_ms, "usual_ms": usual_ms, "times_faster": np.median(ratios), "low95": low, "high95": high}
    held = bool(ours_ms <= MS_MAX and low >= FASTER_MIN)
    rounded = {key: round(float(value), 3) for key, value in line.items()}
    targets = {"target_ms": MS_MAX, "target_times_faster": FASTER_MIN, "held": held}
    print(json.dumps({"figure": figure, "runs": runs, **rounded, **targets}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--times", type=int, default=10, help="masks a round")
    options = parser.parse_args()
    for spots in (0, 250):
        mask = car_mask(spots, seed=0)
        text = rle.encode(mask)
        runs = len(text.split()) // 2
        assert text == usual_encode(mask)
        assert np.array_equal(rle.decode(text, HEIGHT, WIDTH), mask)
        assert np.array_equal(usual_decode(text), mask)

        def encode(mask: Mask = mask) -> str:
            return rle.encode(mask)

        def encode_usual(mask: Mask = mask) -> str:
            return usual_encode(mask)

        def decode(text: str = text) -> Mask:
            return rle.decode(text, HEIGHT, WIDTH)

        def decode_usual(text: str = text) -> Mask:
            return usual_decode(text)

        compare("rle_encode", runs, encode, encode_usual, options.rounds, options.times)
        compare("rle_decode", runs, decode, decode_usual, options.rounds, options.times)


if __name__ == "__main__":
    main()
