"""From an exported model and a folder of images to the csv file that Kaggle takes.

Images are decoded ahead in threads (OpenCV lets go of Python's lock) while the model works on the batch before, one
batch ahead at most: memory depends on the batch and the images' size, not on how many images there are.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from distseg.atomic import replacing
from distseg.data import rle
from distseg.data.codec import Pixels
from distseg.errors import DataError, InputError
from distseg.predict.images import read_image
from distseg.predict.rle_csv import HEADER, read_rows, row_bytes

Model = Callable[[torch.Tensor], torch.Tensor]
"""uint8 (B, 3, H, W) RGB -> uint8 (B, H, W): 1 on the object, 0 elsewhere, at the size of the images."""

_NAMES_SHOWN = 5


def write_submission(
    model: Model,
    images: Sequence[Path],
    out: Path,
    *,
    sample: Path | None = None,
    batch: int = 8,
    threads: int = 2,
    order: rle.Order = "row-major",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes one row an image (its file name, the run lengths of its mask) and returns the number of rows.

    With ``sample`` (Kaggle's sample_submission.csv) the rows are exactly its images in its order, else ``images`` in
    theirs. ``batch`` is the most images in one call of the model; only neighbours of equal size share a call.
    ``progress`` is called with (images done, images in all). ``out`` appears complete or not at all.

    DataError when ``sample`` and ``images`` do not name the same files, when two images share a name, and when an
    image cannot be read; InputError when the model returns anything else than one mask an image at its size.
    """
    todo = _in_order(images, sample)
    done = 0
    with replacing(out) as file:
        file.write(row_bytes(*HEADER))
        decoded = zip(todo, _read_ahead(todo, threads, ahead=batch), strict=True)
        for group in _same_shape(decoded, batch):
            masks = _predict(model, [pixels for _, pixels in group])
            for (path, _), mask in zip(group, masks, strict=True):
                file.write(row_bytes(path.name, rle.encode(mask, order=order)))
            done += len(group)
            if progress is not None:
                progress(done, len(todo))
    return done


def _in_order(images: Sequence[Path], sample: Path | None) -> list[Path]:
    """The images in the order of their rows; DataError unless they are exactly those of the sample."""
    repeated = [name for name, times in Counter(path.name for path in images).items() if times > 1]
    if repeated:
        raise DataError(f"images: {_some(repeated)} given more than once; a submission has one row a file name")
    if not images:
        raise DataError("images: none given, want at least one")
    if sample is None:
        return list(images)
    paths = {path.name: path for path in images}
    names = [name for name, _ in read_rows(sample)]
    if missing := [name for name in names if name not in paths]:
        raise DataError(f"{sample}: {_some(missing)} not among the {len(paths)} images; add the files to the folder")
    if extra := sorted(paths.keys() - set(names)):
        raise DataError(f"{sample}: has no row for {_some(extra)}; take these files out of the folder")
    return [paths[name] for name in names]


def _read_ahead(paths: Iterable[Path], threads: int, ahead: int) -> Iterator[Pixels]:
    """Images (H, W, 3) in order; up to ``ahead`` of them are decoded or waiting while the caller works on another."""
    todo = iter(paths)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(read_image, path) for path in islice(todo, ahead))
        try:
            while waiting:
                pixels = waiting.popleft().result()
                waiting.extend(pool.submit(read_image, path) for path in islice(todo, 1))
                yield pixels
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _same_shape(decoded: Iterable[tuple[Path, Pixels]], batch: int) -> Iterator[list[tuple[Path, Pixels]]]:
    """Runs of neighbours whose images have one shape, at most ``batch`` long."""
    group: list[tuple[Path, Pixels]] = []
    for path, pixels in decoded:
        if group and (len(group) == batch or pixels.shape != group[0][1].shape):
            yield group
            group = []
        group.append((path, pixels))
    if group:
        yield group


@torch.inference_mode()
def _predict(model: Model, images: Sequence[Pixels]) -> Pixels:
    """Images (H, W, 3) of one shape -> masks (B, H, W) uint8."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    masks = model(batch)
    wanted = (len(images), *images[0].shape[:2])
    if masks.dtype != torch.uint8 or tuple(masks.shape) != wanted:
        raise InputError(f"model: returned {masks.dtype} {tuple(masks.shape)}, want torch.uint8 {wanted} (B, H, W)")
    return np.asarray(masks.cpu().numpy(), np.uint8)


def _some(names: Sequence[str]) -> str:
    """``a.jpg, b.jpg and 3 more``."""
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
