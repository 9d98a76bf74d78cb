"""Adaptive stacking: how much to augment follows how well the network does.

While the error is high there is almost no augmentation; as it falls, samples are augmented more often, by more
operations and more strongly. One number, the level in [0, 1], says how much; what a level does to a sample stands in
``policies.draw_adaptive``, when it moves stands here.

**The rule.** Training is cut into windows of W = round(``window_images`` / batch) steps, which are W * batch images
whatever the batch. At the end of each window, with n its images:

1. its error e is the mean over its images of the loss (``error: loss_ratio``) or of 1 - soft Dice (``soft_dice``), as
   measured in training, augmented as they were;
2. the smoothed error is s = e after the first window, then s + (e - s) * (1 - 2 ** (-n / ``half_life_images``));
3. the signal is x = s / (e of the first window) for ``loss_ratio``, x = s for ``soft_dice``. For ``signal: gap`` it
   is x = 1 - s / v with v the same error of the last validation: 0 when both are alike, near 1 when the training set is
   known by heart; before the first validation the level rests;
4. the level moves up by ``speed`` * n / 1000 if x is below ``target`` * (1 - ``dead_band``) (``gap``: above
   ``target`` * (1 + ``dead_band``)), down by as much beyond the other edge, and not at all between; it stays within
   [0, ``max``].

In numbers, by default: at batch 16 a window is 16 steps and 256 images; the level moves by 1.0 * 0.256 = 0.256 after
each, so it takes 1000 images from 0 to 1; it rises while the loss is below 0.225 of the first window's, falls while it
is above 0.275.

**Which batches have it.** The level that is decided at the end of window w is that of window w + 2; windows 0 and 1
have ``start``. The loader reads at most a window ahead (``train/data.py`` sees to it), so when it asks for a batch the
level of that batch's window is known, and is a function of the batch's global step alone: not of loader processes, of
ranks or of an interruption. Errors are added up as whole multiples of 2 ** -20, which floats add exactly in any order,
over any ranks and with any pause between.

**Its relatives.** StyleGAN2-ADA (Karras et al. 2020) moves the probability of one fixed pipeline by a bounded step
towards a target, on the signs of the discriminator's outputs: the same feedback, here on the error of a segmentation,
with a dead band, and on probability, depth of the stack and strength together. CUDA (Ahn et al. 2023) keeps a strength
for each class, moved once an epoch by whether the class's augmented samples are still known; here there is one level,
because a street scene holds most classes at once, and it moves within epochs. MADAug (Hou et al. 2023) trains a policy
network on the validation loss, PBA (Ho et al. 2019) a population of runs for a schedule; here nothing is trained, and
one run is enough. TrivialAugment (Mueller and Hutter 2021) is this at level 1 with ``stack_max=1``, from the first
step to the last.
"""

from dataclasses import dataclass, replace

from distseg.config import AdaptiveConfig

UNITS = 2**20
"""Errors are counted in parts of one."""


@dataclass(frozen=True)
class Course:
    """The controller's whole state, the same on every rank; it belongs to a global step and its checkpoint."""

    level: float
    """Of the present window."""
    next_level: float
    """Of the window after it, decided already."""
    error_units: float = 0.0
    """Sum over the images of the present window so far of their errors, each a whole number of 1 / UNITS."""
    error: float | None = None
    """Smoothed; None in the first window."""
    first_error: float | None = None
    """Of the first window."""
    validation_error: float | None = None
    """Of the last validation, where the signal asks for it."""


def start(cfg: AdaptiveConfig) -> Course:
    """Before the first step."""
    return Course(level=cfg.start, next_level=cfg.start)


def window_steps(cfg: AdaptiveConfig, batch_global: int) -> int:
    """Steps of a window, at least one."""
    return max(1, round(cfg.window_images / batch_global))


def level_at(course: Course, windows_ahead: int) -> float:
    """The level of the present window (0) or of the next (1); IndexError beyond, where nothing is decided yet."""
    return (course.level, course.next_level)[windows_ahead]


def end_window(cfg: AdaptiveConfig, course: Course, images: int) -> Course:
    """The course at the start of the next window, of ``images`` images: one more level is decided."""
    measured = course.error_units / UNITS / images
    error = measured if course.error is None else smoothed(cfg, course.error, measured, images)
    first = measured if course.first_error is None else course.first_error
    after = replace(course, level=course.next_level, error_units=0.0, error=error, first_error=first)
    return replace(after, next_level=moved(cfg, course.next_level, signal(cfg, after), images))


def smoothed(cfg: AdaptiveConfig, before: float, measured: float, images: int) -> float:
    """Rule 2: what was measured before weighs half as much after ``half_life_images``."""
    if cfg.half_life_images == 0:
        return measured
    return before + (measured - before) * (1 - 2 ** (-images / cfg.half_life_images))


def signal(cfg: AdaptiveConfig, course: Course) -> float | None:
    """Rule 3: what is held at the target; None where it is not known (yet)."""
    if course.error is None or course.first_error is None:
        return None
    if cfg.signal == "gap":
        return 1 - course.error / course.validation_error if course.validation_error else None
    if cfg.error == "soft_dice":
        return course.error
    return course.error / course.first_error if course.first_error else 0.0


def moved(cfg: AdaptiveConfig, level: float, signal: float | None, images: int) -> float:
    """Rule 4: the level after ``images`` more images."""
    if signal is None:
        return level
    room = (signal - cfg.target) if cfg.signal == "gap" else (cfg.target - signal)  # > 0: augment more
    if abs(room) <= cfg.dead_band * cfg.target:
        return level
    step = cfg.speed * images / 1000
    return min(cfg.max, level + step) if room > 0 else max(0.0, level - step)
