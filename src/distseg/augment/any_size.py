"""A policy for pictures of different sizes, with the objects in them."""

from distseg.augment.keyed_random import Pixels
from distseg.augment.policies import Augmenter
from distseg.config import AugmentConfig

_SIZES_MAX = 256
_ALONE = (64, 64)


class AnySizeAugmenter:
    """One policy; its transforms are built for each size that occurs.

    Beyond the border there is nothing, whatever ``augment.fill`` says: a mirrored border would show objects twice, as
    one mask of two pieces.
    """

    def __init__(self, cfg: AugmentConfig) -> None:
        """ConfigError on an unknown policy or operation."""
        self._cfg = cfg.model_copy(update={"fill": "blank"})
        self._at_size = {_ALONE: self._built(_ALONE)}

    def __call__(
        self, image: Pixels, masks: tuple[Pixels, ...], seed: int, level: float = 0.0
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        """Image (H, W, 3) uint8 RGB and masks (H, W) uint8 of 0 and 1, augmented alike; sizes stay."""
        size = image.shape[1], image.shape[0]
        if size not in self._at_size:
            if len(self._at_size) == _SIZES_MAX:
                self._at_size.pop(next(iter(self._at_size)))
            self._at_size[size] = self._built(size)
        return self._at_size[size](image, masks, seed, level)

    def _built(self, size: tuple[int, int]) -> Augmenter:
        return Augmenter(self._cfg, size, blank_label=0)
