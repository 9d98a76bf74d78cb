"""What ``distseg predict`` leaves of an image: a mask and, on request, an overlay and the probabilities."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from distseg.atomic import replacing
from distseg.data.codec import Pixels, encode_mask
from distseg.errors import InputError
from distseg.predict.inputs import Job
from distseg.predict.pipeline import Answer, Finish
from distseg.tasks.drawing import overlay, palette

_JPEG_QUALITY = 92


@dataclass(frozen=True)
class WritePictures(Finish[tuple[str, ...]]):
    """Writes ``NAME.png`` and what else is asked for; returns the names of the files."""

    out: Path
    classes: int
    overlay: bool = False
    """``NAME.overlay.jpg``: the image with its labels tinted."""
    probabilities: bool = False
    """``NAME.probabilities.npy``: float16 (C, H, W)."""

    @property
    def wants_image(self) -> bool:  # type: ignore[override]
        return self.overlay

    @property
    def wants_probabilities(self) -> bool:  # type: ignore[override]
        return self.probabilities

    def __call__(self, answer: Answer) -> tuple[str, ...]:
        names = self._names(answer.job)
        with replacing(self.out / names[0]) as file:
            file.write(mask_png(answer.labels, self.classes))
        for name in names[1:]:
            with replacing(self.out / name) as file:
                if name.endswith(".npy"):
                    assert answer.probabilities is not None
                    np.save(file, answer.probabilities.astype(np.float16))
                else:
                    assert answer.image is not None
                    file.write(jpeg(overlay(answer.image, answer.labels, self.classes)))
        return tuple(names)

    def check(self, jobs: Sequence[Job]) -> None:
        """InputError when a file to be written is one of the images."""
        images = {job.path.resolve() for job in jobs}
        for job in jobs:
            for name in self._names(job):
                if (self.out / name).resolve() in images:
                    raise InputError(f"--out {self.out}: {name} would replace an image; give another folder")

    def _names(self, job: Job) -> list[str]:
        names = [f"{job.name}.png"]
        if self.overlay:
            names.append(f"{job.name}.overlay.jpg")
        if self.probabilities:
            names.append(f"{job.name}.probabilities.npy")
        return names


def mask_png(labels: Pixels, classes: int) -> bytes:
    """Label map (H, W) uint8 -> PNG: black and white in one bit for two classes, else indices with a palette.

    PIL reads the labels back as they are from either (``np.asarray(Image.open(path))``), viewers show colours.
    """
    if classes == 2:
        return encode_mask(labels, "png", levels=2)
    picture = Image.fromarray(labels)
    picture.putpalette(palette().tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return data.getvalue()


def jpeg(picture: Pixels) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return data.tobytes()


def png(picture: Pixels) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()
