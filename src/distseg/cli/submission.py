"""``distseg submission`` and ``distseg score``."""

from pathlib import Path
from typing import Annotated

import typer

_NAMES_SHOWN = 3


def submission(
    model: Annotated[Path, typer.Argument(metavar="MODEL.ts", help="A file made by 'distseg export'.")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the images, at their original size.")],
    out: Annotated[Path, typer.Option(metavar="CSV", help="The file to write; one that exists is replaced.")],
    sample: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Kaggle's sample_submission.csv: write exactly its rows, in its order."),
    ] = None,
) -> None:
    """Write a Kaggle submission: one row of run lengths (row-major, from 1) for each image.

    Example:

        distseg submission model.ts --images test --out submission.csv
    """
    from distseg.cli.console import progress
    from distseg.errors import InputError
    from distseg.export.torchscript import load
    from distseg.predict.images import list_images
    from distseg.predict.submission import write_submission

    loaded = load(model)
    if loaded.manifest.task != "binary":
        raise InputError(f"{model}: a model of task '{loaded.manifest.task}'; a submission needs task 'binary'")
    with progress("images") as advance:
        rows = write_submission(loaded.module, list_images(images), out, sample=sample, progress=advance)
    typer.echo(f"{out}: {rows} rows")


def score(
    submission: Annotated[Path, typer.Argument(metavar="SUBMISSION.csv", help="A file of rows 'img,rle_mask'.")],
    truth: Annotated[Path, typer.Option(metavar="CSV|DIR", help="train_masks.csv, or a folder of masks.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score a submission as Kaggle does, offline: mean Dice per image, at original size.

    Example:

        distseg score submission.csv --truth train_masks.csv
    """
    from distseg.cli.console import print_json, print_table
    from distseg.predict.score import score as score_submission

    result = score_submission(submission, truth)
    for names, what in ((result.missing, "images without a row"), (result.extra, "rows of images not in the truth")):
        if names:
            shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            typer.echo(f"warning: {what}, left out of the mean: {len(names)} ({shown})", err=True)
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        columns = ("dice_mean_per_image", "images", "missing", "extra")
        row = (f"{result.dice_mean_per_image:.6f}", result.images, len(result.missing), len(result.extra))
        print_table(str(submission), columns, [row])
