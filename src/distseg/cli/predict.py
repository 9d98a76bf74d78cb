"""``distseg predict``: masks of images."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distseg.cli.inference import Device, Foreign, Tile, Tta, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distseg.predict.decode import Unreadable
    from distseg.predict.inputs import Job

_NAMES_SHOWN = 20
SOME_FAILED = 1


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL.ts", help="A file made by 'distseg export'.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Files, folders, globs.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the masks: NAME.png at the image's size.")],
    overlay: Annotated[bool, typer.Option("--overlay", help="Also NAME.overlay.jpg, the image tinted.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also NAME.probabilities.npy, float16 (C, H, W).")
    ] = False,
    tta: Tta = False,
    tile: Tile = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option(metavar="OTHER.ts", help="Mean with this file, too; may be repeated.")
    ] = None,
    workers: Workers = None,
    device: Device = None,
    foreign: Foreign = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Write the mask of each image: black and white for one object, a palette of labels for several classes.

    A Mask R-CNN draws the objects that it finds into NAME.overlay.jpg and writes results.json, as COCO has it.

    Images that cannot be read are listed at the end; the others are done, and the exit code is 1.

    Example:

        distseg predict model.ts photos/ more/*.jpg --out masks --overlay
    """
    from distseg.cli.console import print_json, progress
    from distseg.cli.inference import note_on_tiles, pipeline
    from distseg.errors import InputError
    from distseg.export.torchscript import manifest_in
    from distseg.predict.decode import Unreadable
    from distseg.predict.inputs import find_images, named
    from distseg.predict.pictures import WritePictures
    from distseg.predict.segmenter import Recipe, Segmenter

    jobs = named(find_images(images))
    if model.is_file() and (known := manifest_in(model)) is not None and known.task == "instance":
        unfit = {
            "--probabilities": probabilities,
            "--tta": tta,
            "--tile": tile,
            "--ensemble": ensemble,
            "--workers": workers,
        }
        if wrong := [option for option, value in unfit.items() if value]:
            raise InputError(f"{', '.join(wrong)}: {model} finds objects, one by one in whole images; drop it")
        _predict_objects(model, jobs, out.resolve(), device, as_json)
        return
    models = tuple(path.resolve() for path in (model, *(ensemble or ())))
    recipe = Recipe(models=models, tta=tta, tile=tile, device=device, foreign=foreign)
    segmenter = Segmenter.open(recipe)
    note_on_tiles(segmenter)
    finish = WritePictures(out.resolve(), len(segmenter.manifest.classes), overlay, probabilities)
    finish.check(jobs)
    written: list[str] = []
    failed: list[Unreadable] = []
    opened = pipeline(recipe, segmenter, finish, len(jobs), workers)
    with ExitStack() as stack:
        run = stack.enter_context(opened)
        advance = stack.enter_context(progress("images"))
        for done, result in enumerate(run(jobs), 1):
            if isinstance(result, Unreadable):
                failed.append(result)
            else:
                written += result
            advance(done, len(jobs))
    if elsewhere := [name for name in written if not (out / name).exists()]:
        raise InputError(f"--out {out}: {elsewhere[0]} is not here; give a folder that all nodes share")
    _tell_unreadable(failed)
    if as_json:
        unreadable = [{"image": str(each.path), "reason": each.reason} for each in failed]
        print_json({"out": str(out), "images": len(jobs), "files": written, "unreadable": unreadable})
    else:
        typer.echo(f"{out}: {len(jobs) - len(failed)} of {len(jobs)} images, {len(written)} files")
    if failed:
        raise typer.Exit(SOME_FAILED)


def _predict_objects(model: Path, jobs: "Sequence[Job]", out: Path, device: str | None, as_json: bool) -> None:
    from distseg.cli.console import print_json, progress
    from distseg.predict.instances import predict_objects

    with progress("images") as advance:
        found = predict_objects(model, jobs, out, device=device, advance=advance)
    _tell_unreadable(found.unreadable)
    if as_json:
        unreadable = [{"image": str(each.path), "reason": each.reason} for each in found.unreadable]
        document = {"images": found.images, "categories": found.categories, "results": found.results}
        print_json({"out": str(out), **document, "files": found.files, "unreadable": unreadable})
    else:
        typer.echo(f"{out}: {len(found.results)} objects in {len(found.images)} of {len(jobs)} images, results.json")
    if found.unreadable:
        raise typer.Exit(SOME_FAILED)


def _tell_unreadable(failed: "Sequence[Unreadable]") -> None:
    for each in failed[:_NAMES_SHOWN]:
        typer.echo(f"not predicted: {each.reason}", err=True)
    if len(failed) > _NAMES_SHOWN:
        typer.echo(f"not predicted: {len(failed) - _NAMES_SHOWN} more", err=True)
