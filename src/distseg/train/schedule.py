"""Learning-rate schedules as pure functions of the step, so a schedule has no state to save."""

import math

from distseg.config import ScheduleConfig

_ONE_CYCLE_START = 1 / 25  # Smith and Topin 2018, with torch's default division factor


def lr_factor(cfg: ScheduleConfig, step: int, steps: int) -> float:
    """Part of the peak rate for optimizer step ``step`` of ``steps`` (0-based); in [0, 1].

    ``one_cycle``: cosine from 1/25 up to 1, then cosine down to ``final_fraction``.
    ``cosine``: the same way down, but the warm-up is linear and starts near 0. ``constant``: 1 throughout.
    """
    if cfg.name == "constant":
        return 1.0
    warmup = round(cfg.warmup_fraction * steps)
    if step < warmup:
        if cfg.name == "cosine":
            return (step + 1) / (warmup + 1)
        return _between(_ONE_CYCLE_START, 1.0, step / warmup)
    return _between(1.0, cfg.final_fraction, (step - warmup) / max(1, steps - 1 - warmup))


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine wave from ``start`` (part 0) to ``end`` (part 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
