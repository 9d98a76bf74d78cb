"""What the commands that run exported files share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from distseg.predict.pipeline import Finish, Run
    from distseg.predict.segmenter import Recipe, Segmenter

Result = TypeVar("Result")

Tta = Annotated[bool, typer.Option("--tta", help="Mean of the image and its mirror image; twice the time.")]
Tile = Annotated[int | None, typer.Option(metavar="N", help="Predict larger images in blended tiles of N pixels.")]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, help="Spread over N workers of a Ray cluster.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1; default: a GPU if any.")]
Foreign = Annotated[
    bool, typer.Option("--foreign", help="Also TorchScript files not made by 'distseg export'; they are code.")
]

_FEW = 24  # images that are decoded sooner here than processes start
_DECODERS_MAX = 16


@contextmanager
def pipeline(
    recipe: "Recipe", segmenter: "Segmenter", finish: "Finish[Result]", images: int, workers: int | None
) -> Iterator["Run[Result]"]:
    """What runs so many images: this machine with the segmenter, or so many workers of a cluster with its recipe."""
    if workers is not None:
        from distseg.on_ray.predict import pipelines

        with pipelines(recipe, finish, workers) as run:
            yield run
        return
    from distseg.data.processes import keep_memory
    from distseg.predict.decode import Decoders
    from distseg.predict.pipeline import Pipeline

    keep_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with Decoders(0 if images < _FEW else min(cores, _DECODERS_MAX)) as decoders:
        yield Pipeline(segmenter, finish, decoders)


def note_on_tiles(segmenter: "Segmenter") -> None:
    """Says when tiles are seen at another scale than what the model was trained on."""
    size = segmenter.manifest.input_size
    if segmenter.tile is not None and size is not None:
        typer.echo(
            f"note: the model sees every tile of {segmenter.tile} pixels at {size[0]}x{size[1]}, as it was trained on "
            "whole images at that size; tiles suit models trained at the images' own size",
            err=True,
        )
