"""``distseg submission`` and ``distseg score``."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distseg.cli.inference import Device, Foreign, Tile, Tta, Workers

if TYPE_CHECKING:
    from distseg.predict.row_format import RowFormat

_NAMES_SHOWN = 3

Profile = Annotated[str, typer.Option(metavar="NAME", help="carvana (row-major), or column-major.")]
Columns = Annotated[
    str | None, typer.Option(metavar="ID,RUNS", help="Names of the two columns; default: the sample's, img,rle_mask.")
]
First = Annotated[int | None, typer.Option(metavar="N", help="Number of the first pixel; default: 1.")]
RowId = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Row names, of {image}, {stem}, {label}, {class}; default: {image}."),
]
Labels = Annotated[
    str | None, typer.Option(metavar="1,2,..", help="A row for each of these labels; default: all but 0.")
]


def submission(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.ts...", help="Made by 'distseg export'; the mean.")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the images, at their original size.")],
    out: Annotated[Path, typer.Option(metavar="CSV", help="The file to write; one that exists is replaced.")],
    sample: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Kaggle's sample_submission.csv: write exactly its rows, in its order."),
    ] = None,
    profile: Profile = "carvana",
    columns: Columns = None,
    first: First = None,
    row_id: RowId = None,
    labels: Labels = None,
    tta: Tta = False,
    tile: Tile = None,
    unreadable: Annotated[
        str, typer.Option(metavar="fail|empty", help="Images that cannot be read: no file, or an empty mask.")
    ] = "fail",
    workers: Workers = None,
    device: Device = None,
    foreign: Foreign = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Write a Kaggle submission: one row of run lengths for each image, or for each of its classes.

    Interrupted and run again, it goes on where it was.

    Example:

        distseg submission model.ts --images test --out submission.csv
    """
    from distseg.cli.console import print_json, progress
    from distseg.cli.inference import note_on_tiles, pipeline
    from distseg.errors import InputError
    from distseg.predict.images import list_images
    from distseg.predict.row_format import read_header
    from distseg.predict.segmenter import Recipe, Segmenter
    from distseg.predict.submission import EncodeRows, identity_of, write_submission

    if unreadable not in ("fail", "empty"):
        raise InputError(f"--unreadable {unreadable}: want fail or empty")
    paths = list_images(images.resolve())
    recipe = Recipe(models=tuple(path.resolve() for path in models), tta=tta, tile=tile, device=device, foreign=foreign)
    segmenter = Segmenter.open(recipe)
    note_on_tiles(segmenter)
    rows = _format(profile, columns, first, row_id, labels, segmenter.manifest.classes)
    if sample is not None and columns is None:
        rows = rows.model_copy(update={"columns": read_header(sample)})
    finish = EncodeRows(rows)
    opened = pipeline(recipe, segmenter, finish, len(paths), workers)
    with ExitStack() as stack:
        encode = stack.enter_context(opened)
        written = write_submission(
            encode,
            paths,
            out,
            format=rows,
            identity=identity_of(recipe, rows),
            sample=sample,
            empty_if_unreadable=unreadable == "empty",
            progress=stack.enter_context(progress("images")),
            tell=lambda line: typer.echo(line, err=True),
        )
    if as_json:
        print_json({"out": str(out), "images": len(paths), "rows": written})
    else:
        typer.echo(f"{out}: {written} rows")


def score(
    submission: Annotated[Path, typer.Argument(metavar="SUBMISSION.csv", help="A file of rows 'img,rle_mask'.")],
    truth: Annotated[Path, typer.Option(metavar="CSV|DIR", help="train_masks.csv, or a folder of masks.")],
    profile: Profile = "carvana",
    columns: Columns = None,
    first: First = None,
    row_id: RowId = None,
    labels: Labels = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,..", help="Names of the classes from 0 on, which {class} stands for.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score a submission as Kaggle does, offline: mean Dice per image, at original size.

    Example:

        distseg score submission.csv --truth train_masks.csv
    """
    from distseg.cli.console import print_json, print_table
    from distseg.errors import InputError
    from distseg.predict.row_format import read_header
    from distseg.predict.score import score as score_submission

    if classes is None and truth.is_dir() and "{class" in (row_id or ""):
        raise InputError(
            f"--row-id {row_id}: the masks of {truth} hold numbers of classes, not names; give --classes A,B,.. too, "
            "the names from class 0 on"
        )
    names = _numbered(labels) if classes is None else tuple(classes.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) != len(names):
        raise InputError(f"--classes {classes}: want two names or more, each once, such as 'background,car'")
    rows = _format(profile, columns, first, row_id, labels, names)
    if columns is None and profile != "carvana":
        rows = rows.model_copy(update={"columns": read_header(submission)})
    result = score_submission(submission, truth, rows)
    for left_out, what in ((result.missing, "images without a row"), (result.extra, "rows of images not in the truth")):
        if left_out:
            shown = ", ".join(left_out[:_NAMES_SHOWN]) + (", ..." if len(left_out) > _NAMES_SHOWN else "")
            typer.echo(f"warning: {what}, left out of the mean: {len(left_out)} ({shown})", err=True)
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        header = ("dice_mean_per_image", "images", "missing", "extra")
        row = (f"{result.dice_mean_per_image:.6f}", result.images, len(result.missing), len(result.extra))
        print_table(str(submission), header, [row])


def _numbered(labels: str | None) -> tuple[str, ...]:
    """Stand-ins for names: of two classes, or of so many that each of these labels has one."""
    highest = max([1, *(int(label) for label in (labels or "").split(",") if label.isdigit())])
    return tuple(f"class {label}" for label in range(highest + 1))


def _format(
    profile: str,
    columns: str | None,
    first: int | None,
    row_id: str | None,
    labels: str | None,
    classes: tuple[str, ...],
) -> "RowFormat":
    """A profile with what the options change in it; without ``labels``, rows for all classes but 0."""
    from distseg.errors import InputError
    from distseg.predict.row_format import PROFILES

    if profile not in PROFILES:
        raise InputError(f"--profile {profile}: want one of {', '.join(PROFILES)}")
    changes: dict[str, Any] = {"classes": classes}
    if columns is not None:
        named = tuple(columns.split(","))
        if len(named) != 2 or not all(named) or named[0] == named[1]:
            raise InputError(f"--columns {columns}: want two names, such as 'img,rle_mask'")
        changes["columns"] = named
    if first is not None:
        changes["first"] = first
    try:
        changes["labels"] = tuple(map(int, labels.split(",") if labels else range(1, len(classes))))
    except ValueError as error:
        raise InputError(f"--labels {labels}: want class indices, such as '1,2,5'") from error
    several = len(changes["labels"]) > 1
    changes["row_id"] = row_id or ("{image}_{label}" if several else PROFILES[profile].row_id)
    return PROFILES[profile].model_copy(update=changes).checked()
