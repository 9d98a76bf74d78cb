"""One or several exported files as one model: mean of probabilities, flips, tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distseg.errors import InputError
from distseg.export.torchscript import LoadedModel, load
from distseg.predict.tiles import check_tile, strips
from distseg.records import ExportManifest, Value

DENSE = ("binary", "multiclass")
_BATCH_MAX = 16
_BATCH_PIXELS = 1 << 23  # times channels: 3 binary images of 1918x1280; logits stay within 32 MB, which malloc reuses


class Recipe(Value):
    """What to predict with; small and plain, so another process can open the same."""

    models: tuple[Path, ...]
    tta: bool = False
    """Also predict the mirrored image, and take the mean of the probabilities."""
    tile: int | None = None
    """Side in pixels of the tiles in which larger images are predicted; None: whole."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``; None: a GPU where there is one."""
    foreign: bool = False
    """Also take TorchScript files that carry no manifest of ours: they are trusted to be called as ours are."""


@dataclass(frozen=True)
class Segmenter:
    """What a recipe makes; ``labels`` and ``probabilities`` take and give tensors of its device."""

    models: tuple[LoadedModel, ...]
    tta: bool
    tile: int | None
    device: torch.device

    @classmethod
    def open(cls, recipe: Recipe) -> "Segmenter":
        """Loads the files; InputError when they do not agree on task and classes, or are of task instance."""
        if not recipe.models:
            raise InputError("models: none given, want one file made by 'distseg export' at least")
        if recipe.tile is not None:
            check_tile(recipe.tile)
        device = _device(recipe.device)
        models = tuple(load(path, str(device), foreign=recipe.foreign) for path in recipe.models)
        first = models[0].manifest
        for path, model in zip(recipe.models, models, strict=True):
            manifest = model.manifest
            if manifest.task not in DENSE:
                raise InputError(f"{path}: a model of task '{manifest.task}'; want one of {', '.join(DENSE)}")
            if (manifest.task, manifest.classes) != (first.task, first.classes):
                raise InputError(
                    f"{path}: task {manifest.task} with classes {', '.join(manifest.classes)}, {recipe.models[0]} has "
                    f"{first.task} with {', '.join(first.classes)}; an ensemble is of models of the same classes"
                )
        return cls(models, recipe.tta, recipe.tile, device)

    @property
    def manifest(self) -> ExportManifest:
        """The first file's."""
        return self.models[0].manifest

    @property
    def channels(self) -> int:
        """Channels of the probabilities: 1 for task binary, else the classes."""
        return 1 if self.manifest.task == "binary" else len(self.manifest.classes)

    @torch.inference_mode()
    def labels(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) RGB -> uint8 (B, H, W): what the file itself answers when it is one, whole, unflipped."""
        if self._in_tiles(images):
            parts = [torch.cat([decide(strip[None])[0] for strip in self._strips(image)]) for image in images]
            return torch.stack(parts)
        if self.tta or len(self.models) > 1:
            return decide(self._mean(images))
        found: torch.Tensor = self.models[0].module(images)
        wanted = (images.shape[0], *images.shape[2:])
        if found.dtype != torch.uint8 or tuple(found.shape) != wanted:
            raise InputError(f"model: returned {found.dtype} {tuple(found.shape)}, want torch.uint8 {wanted} (B, H, W)")
        return found

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) RGB -> float32 (B, C, H, W): the mean over files and flips, tiles blended."""
        if self._in_tiles(images):
            return torch.stack([torch.cat(list(self._strips(image)), dim=1) for image in images])
        return self._mean(images)

    def _in_tiles(self, images: torch.Tensor) -> bool:
        return self.tile is not None and max(images.shape[2:]) > self.tile

    def _strips(self, image: torch.Tensor) -> Sequence[torch.Tensor]:
        assert self.tile is not None
        return strips(self._mean, image, self.tile, batch_size(self.tile, self.tile, self.channels))  # type: ignore[return-value]

    def _mean(self, images: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for model in self.models:
            for flipped in (False, True)[: 1 + self.tta]:
                found = model.module.probabilities(images.flip(-1) if flipped else images)
                found = found.flip(-1) if flipped else found
                total = found if total is None else total.add_(found)
        assert total is not None
        return total.div_(len(self.models) * (1 + self.tta))


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *["cuda"][:gpus], *[f"cuda:{each}" for each in range(gpus)]]
    if torch.backends.mps.is_available():
        known.append("mps")
    if name not in known:
        raise InputError(f"--device: got '{name}', this machine has {', '.join(known)}")
    return torch.device(name)


def decide(probabilities: torch.Tensor) -> torch.Tensor:
    """Probabilities (B, C, H, W) -> labels uint8 (B, H, W): above a half for one channel, else the likeliest class."""
    if probabilities.shape[1] == 1:
        return (probabilities[:, 0] > 0.5).to(torch.uint8)
    return probabilities.argmax(dim=1).to(torch.uint8)


def batch_size(height: int, width: int, channels: int) -> int:
    """Images of one shape that the model takes at once: a rule of their size alone, so that results repeat."""
    return max(1, min(_BATCH_MAX, _BATCH_PIXELS // (height * width * channels)))
