"""What one raw sample shows when it is decoded: faults of its image and its labels, and how much of what it holds."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from distseg.data.codec import MAX_PIXELS
from distseg.data.findings import Finding, FindingError, error, note, unreadable_image, warning
from distseg.data.instances import instance_pixels
from distseg.data.layouts.base import Corpus, InstanceSource, Labels, MaskSource, RawSample
from distseg.data.layouts.scan import Remarking
from distseg.data.raw_image import HEADER_ERRORS, Sizes, orientation

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # PIL runs Ghostscript to load EPS
_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F")  # first letters of PIL's modes of more than 8 bits a channel
_PNG_DEPTH_BYTE = 24  # bits a channel; PIL makes 8 of 16 in colour without a word


@dataclass
class Look:
    """One decoded sample."""

    sha256: str | None = None
    """Of the image's file; None when it cannot be read."""
    amounts: Counter[int] = field(default_factory=Counter)
    """By class index: pixels or, for instances, objects."""
    findings: list[Finding] = field(default_factory=list)


def look_at(sample: RawSample, corpus: Corpus) -> Look:
    """Decodes a sample's image and labels once."""
    look = Look()
    try:
        sizes = _look_at_image(sample, look)
    except FindingError as problem:
        look.findings.append(problem.finding)
        sizes = None
    try:
        if sample.mask is not None:
            _look_at_mask(sample.mask, sample, sizes, corpus, look)
        if sample.instances is not None:
            _look_at_objects(sample, sample.instances, corpus, look)
    except FindingError as problem:
        look.findings.append(problem.finding)
    return look


def _look_at_image(sample: RawSample, look: Look) -> Sizes:
    path = sample.image
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise FindingError(unreadable_image(path, f"image cannot be read ({problem.strerror})")) from problem
    look.sha256 = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                declared = f"image declares {width}x{height} pixels, more than {MAX_PIXELS}"
                raise FindingError(unreadable_image(path, declared))
            mode, turn, sizes = image.mode, orientation(image), Sizes.of(image)
            image.load()
    except HEADER_ERRORS as problem:
        raise FindingError(unreadable_image(path, "image cannot be decoded")) from problem
    if mode.startswith(_DEEP_MODES) or (image.format == "PNG" and data[_PNG_DEPTH_BYTE] == 16):
        remedy = "packing keeps the upper 8; convert it yourself for another range"
        look.findings.append(warning("image-16-bit", path, "image has 16 bits a channel", remedy))
    if mode in _GREY_MODES or mode.startswith(_DEEP_MODES):
        remedy = "nothing to do: packing stores the grey in all three channels"
        look.findings.append(note("image-grey", path, "image has one channel", remedy))
    if turn != 1:
        message = f"EXIF orientation {turn} turns or mirrors the image"
        remedy = "packing applies it; see that the labels were drawn on the image as shown"
        look.findings.append(warning("image-exif", path, message, remedy))
    return sizes


def _look_at_mask(mask: MaskSource, sample: RawSample, sizes: Sizes | None, corpus: Corpus, look: Look) -> None:
    labels = mask.read()
    if isinstance(mask, Remarking):
        look.findings.extend(mask.remarks())
    if sizes is not None and (wrong := _wrong_size(sample, sizes, labels)) is not None:
        look.findings.append(wrong)
    numbers = np.bincount(labels.ravel(), minlength=256)
    if corpus.ignore_label is not None:
        numbers[corpus.ignore_label] = 0
    look.amounts = Counter({label: int(numbers[label]) for label in np.flatnonzero(numbers).tolist()})
    look.findings.extend(_of_one_label(sample, corpus, look.amounts))


def _wrong_size(sample: RawSample, sizes: Sizes, labels: Labels) -> Finding | None:
    height, width = labels.shape
    if (width, height) == sizes.shown:
        return None
    message = "mask is {}x{}, image is {}x{}".format(width, height, *sizes.shown)
    remedy = "save the mask at the size of its image"
    if (width, height) == sizes.stored:
        message += " once EXIF has turned it"
        remedy = "turn the mask likewise, or take the EXIF tag from the image"
    return error("size-differs", sample.image, message, remedy)


def _of_one_label(sample: RawSample, corpus: Corpus, amounts: Counter[int]) -> Iterator[Finding]:
    remedy = "see whether that is meant; if not, mend the mask or remove the pair"
    if not amounts:
        yield warning("mask-empty", sample.image, "every pixel of its mask is ignored", remedy)
    elif len(amounts) == 1:
        label = next(iter(amounts))
        code = "mask-full" if label else "mask-empty"
        yield warning(code, sample.image, f"every pixel of its mask is '{corpus.classes[label]}'", remedy)


def _look_at_objects(sample: RawSample, source: InstanceSource, corpus: Corpus, look: Look) -> None:
    objects = source.read()
    look.amounts = Counter(instance.label for instance in objects)
    if not objects:
        remedy = "nothing to do: it is kept as an image without objects"
        look.findings.append(note("no-objects", sample.image, "image without objects", remedy))
    for instance in objects:
        if not instance_pixels(instance):
            message = f"an object of class '{corpus.classes[instance.label]}' covers no pixel"
            look.findings.append(warning("object-empty", sample.image, message, "draw it again, or remove it"))
