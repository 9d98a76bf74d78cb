"""An image in overlapping tiles: memory depends on the tile and the image's width, not on its height.

Tiles are blended by smooth weights that are zero in a margin along their inner edges, where a tile lacks the context
that the whole image gives. So a convolutional network that sees no farther than the margin gives what it gives on the
whole image. Tiles begin at multiples of ALIGNMENT: networks that halve their maps treat other offsets differently.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from distseg.errors import InputError

ALIGNMENT = 32
TILE_MIN = 2 * ALIGNMENT

Probabilities = Callable[[torch.Tensor], torch.Tensor]
"""uint8 (B, 3, H, W) -> float32 (B, C, H, W)."""


def check_tile(tile: int) -> None:
    """InputError unless tiles of this side (pixels) can be cut."""
    if tile < TILE_MIN or tile % ALIGNMENT:
        raise InputError(f"--tile {tile}: want a multiple of {ALIGNMENT}, at least {TILE_MIN} (pixels)")


def overlap_of(tile: int) -> int:
    """Pixels that neighbouring tiles share: a quarter of the side, in whole alignments."""
    return max(ALIGNMENT, tile // 4 // ALIGNMENT * ALIGNMENT)


def margin_of(tile: int) -> int:
    """Pixels along a tile's inner edges that do not count."""
    return overlap_of(tile) // 4


def strips(probabilities: Probabilities, image: torch.Tensor, tile: int, batch: int) -> Iterator[torch.Tensor]:
    """Image (3, H, W) uint8 -> probabilities (C, h, W) float32 of strips from top to bottom that make up H.

    ``batch``: how many tiles the model takes at once.
    """
    height, width = image.shape[-2:]
    rows, columns = spans(height, tile), spans(width, tile)
    carried: torch.Tensor | None = None
    for number, (top, bottom) in enumerate(rows):
        below = rows[number + 1][0] if number + 1 < len(rows) else height
        strip = _row_of_tiles(probabilities, image[:, top:bottom], columns, tile, batch)
        strip *= weights(top, bottom, height, tile).to(strip.device)[:, None]
        if carried is not None:
            strip[:, : carried.shape[1]] += carried
        yield strip[:, : below - top]
        carried = strip[:, below - top :].clone()


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """(start, end) of the tiles along a side."""
    step = tile - overlap_of(tile)
    return [(start, min(start + tile, length)) for start in range(0, max(1, length - overlap_of(tile)), step)]


def weights(start: int, end: int, length: int, tile: int) -> torch.Tensor:
    """(end - start) float32 of a tile's pixels along a side; those of all tiles add up to 1 everywhere."""
    overlap, margin = overlap_of(tile), margin_of(tile)
    steps = overlap - 2 * margin
    rise = torch.zeros(overlap)
    rise[margin : margin + steps] = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(steps) + 0.5) / steps)
    rise[margin + steps :] = 1
    found = torch.ones(end - start)
    if start > 0:
        found[:overlap] = rise
    if end < length:
        found[-overlap:] = 1 - rise
    return found


def _row_of_tiles(
    probabilities: Probabilities, image: torch.Tensor, columns: Sequence[tuple[int, int]], tile: int, batch: int
) -> torch.Tensor:
    """(3, h, W) -> (C, h, W) float32."""
    width = image.shape[-1]
    strip: torch.Tensor | None = None
    for first in range(0, len(columns), batch):
        for group in _same_width(columns[first : first + batch]):
            found = probabilities(torch.stack([image[:, :, left:right] for left, right in group]))
            if strip is None:
                strip = torch.zeros(found.shape[1], image.shape[1], width, device=found.device)
            for each, (left, right) in zip(found, group, strict=True):
                strip[:, :, left:right] += each * weights(left, right, width, tile).to(found.device)
    assert strip is not None  # an image has a pixel at least
    return strip


def _same_width(columns: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """All tiles but maybe the last of a row are equally wide."""
    last = columns[-1]
    if last[1] - last[0] == columns[0][1] - columns[0][0]:
        yield columns
    else:
        yield columns[:-1]
        yield columns[-1:]
