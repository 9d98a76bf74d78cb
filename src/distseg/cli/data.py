"""``distseg data``: make-believe data, raw data to shards, and what is in them."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from distseg.cli import console
from distseg.errors import DataError, InputError

if TYPE_CHECKING:
    from distseg.data.crew import Elsewhere

app = typer.Typer(no_args_is_help=True, help="Raw data to shards, and what is in them.")

LayoutOption = Annotated[
    str, typer.Option(help="How the raw data lies in its folder: carvana, folders or coco.", show_default=False)
]
ShardsArgument = Annotated[
    str, typer.Argument(metavar="SHARDS", help="Folder that 'distseg data pack' made, or its URL.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@app.command()
def synth(
    layout: Annotated[str, typer.Option(help="As which data set: carvana, folders or coco.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
    groups: Annotated[
        int | None,
        typer.Option(min=1, help="Cars (default 12), street sequences (4) or tables (12).", show_default=False),
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="Photographs of each.")] = 16,
    classes: Annotated[
        int | None, typer.Option(help="Of the streets: 11 or 32 as colour maps (default 11).", show_default=False)
    ] = None,
    size: Annotated[str, typer.Option(help="N or WxH in pixels.")] = "512",
    seed: SeedOption = 0,
) -> None:
    """Write make-believe photographs with masks, laid out as a real data set.

    Example: distseg data synth --layout carvana --out raw
    """
    from distseg.data.synthetic.carvana import write_carvana
    from distseg.data.synthetic.scenes import write_scenes
    from distseg.data.synthetic.streets import write_streets

    pixels = console.parse_size(size)
    if pixels is None:
        raise InputError(f"--size {size}: want N or WxH, such as 480x320")
    if classes is not None and layout != "folders":
        raise InputError(f"--classes {classes}: only layout 'folders' has a choice, not '{layout}'; drop it")
    match layout:
        case "carvana":
            groups, of = groups or 12, "cars"
            write_carvana(out, groups=groups, views=views, size=pixels, seed=seed)
        case "folders":
            groups, of = groups or 4, "street sequences"
            write_streets(out, groups=groups, views=views, size=pixels, classes=classes or 11, seed=seed)
        case "coco":
            groups, of = groups or 12, "tables"
            write_scenes(out, groups=groups, views=views, size=pixels, seed=seed)
        case _:
            raise DataError(f"layout '{layout}': cannot be made up; want one of: carvana, folders, coco")
    print(f"{out}: {groups * views} photographs of {groups} {of}, {pixels[0]}x{pixels[1]} pixels")


@app.command()
def audit(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The raw data.", show_default=False)],
    layout: LayoutOption,
    group_regex: Annotated[
        str | None, typer.Option(help="What it finds in an image's name is the group.", show_default=False)
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names, and colours if any.", show_default=False)
    ] = None,
    ignore_label: Annotated[int | None, typer.Option(help="Label that marks void.", show_default=False)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the findings do not depend on them.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Look for what breaks training in raw data; exit code 2 when it cannot be packed.

    Example: distseg data audit raw --layout carvana
    """
    from distseg.data.audit import audit
    from distseg.data.findings import SUMMARY_COLUMNS, summary
    from distseg.data.layouts.base import LayoutOptions

    with console.progress("auditing") as progress:
        report = audit(layout, source, LayoutOptions(group_regex, classes, ignore_label), progress, workers=workers)
    counts = {"images": report.images, "errors": len(report.errors), "warnings": len(report.warnings)}
    if as_json:
        console.print_json({"findings": [found.model_dump() for found in report.findings], **counts})
    elif report.findings and sys.stdout.isatty():
        console.print_table(str(source), SUMMARY_COLUMNS, summary(report.findings))
    else:
        for found in report.findings:
            print(f"{found.severity} {found.code}: {found.line}")
    if report.errors:
        raise DataError(f"{source}: {len(report.errors)} errors, want none; mend them and audit again")
    if not as_json:
        notes = len(report.findings) - len(report.warnings)
        print(f"{source}: {report.images} images, no error, {len(report.warnings)} warnings, {notes} notes")


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the raw data.", show_default=False)],
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
    size: Annotated[str, typer.Option(help="Stored size in pixels: N, WxH, or 'original'.")] = "512",
    val_fraction: Annotated[float, typer.Option(help="Part of the samples to validate on, in whole groups.")] = 0.2,
    test_fraction: Annotated[float, typer.Option(help="Part of the samples to set aside, in whole groups.")] = 0.0,
    given_split: Annotated[bool, typer.Option("--given-split", help="Keep the folder's own split instead.")] = False,
    folds: Annotated[int | None, typer.Option(help="Also deal train and val into this many folds.")] = None,
    group_regex: Annotated[
        str | None, typer.Option(help="What it finds in an image's name is the group.", show_default=False)
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names, and colours if any.", show_default=False)
    ] = None,
    ignore_label: Annotated[int | None, typer.Option(help="Label that marks void.", show_default=False)] = None,
    mask_encoding: Annotated[
        str, typer.Option(help="png (any tool reads it), bits, or fastest (measured; 'bits' and 'png' only).")
    ] = "png",
    seed: SeedOption = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on them.")] = 1,
) -> None:
    """Audit raw data, resize and split it, and write it as shards; on a Ray cluster where RAY_ADDRESS is set.

    Example: distseg data pack raw --layout carvana --out shards --size 128
    """
    from distseg.data.info import info
    from distseg.data.layouts.base import LayoutOptions
    from distseg.data.manifest import ShardFolder
    from distseg.data.pack import MaskChoice
    from distseg.data.pack_raw import PackJob, pack_raw

    choices = get_args(MaskChoice)
    if mask_encoding not in choices:
        raise InputError(f"--mask-encoding {mask_encoding}: want one of {', '.join(choices)}")
    job = PackJob(
        layout=layout,
        source=source.resolve(),  # processes of a cluster run elsewhere
        options=LayoutOptions(group_regex, classes, ignore_label),
        out=out.resolve(),
        size=console.parse_size(size),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        given_split=given_split,
        folds=folds,
        seed=seed,
        mask_encoding=cast(MaskChoice, mask_encoding),
        workers=workers,
    )
    with _cluster() as elsewhere:
        pack_raw(job, elsewhere, console.progress, warn=lambda line: print(line, file=sys.stderr))
    found = info(ShardFolder.open(out))
    splits = ", ".join(f"{name} {number}" for name, number in found["splits"].items())
    print(
        f"{out}: {found['samples']} samples of {found['groups']} groups ({splits}) "
        f"in {found['shards']} shards, {found['bytes'] / 1e6:.1f} MB"
    )


def _cluster() -> AbstractContextManager["Elsewhere | None"]:
    """The Ray cluster at RAY_ADDRESS; None without one."""
    if not os.environ.get("RAY_ADDRESS"):
        return nullcontext()
    from distseg.on_ray.pack import cluster

    return cluster()


@app.command()
def info(
    shards: ShardsArgument,
    as_json: JsonOption = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write pixels per class to this file.", show_default=False)
    ] = None,
) -> None:
    """Show what a folder of shards holds.

    Example: distseg data info shards --csv class_counts.csv
    """
    from distseg import atomic
    from distseg.data.cache import ShardCache
    from distseg.data.info import class_counts_csv, info
    from distseg.data.manifest import ShardFolder
    from distseg.home import Home

    folder = ShardFolder.open(shards, ShardCache.of(Home.from_environment()))
    found = info(folder)
    if csv is not None:
        atomic.write_text(csv, class_counts_csv(folder))
    if as_json:
        console.print_json(found)
        return
    rows = [(name, value) for name, value in found.items() if not isinstance(value, list | dict)]
    rows += [(f"samples in {split}", number) for split, number in found["splits"].items()]
    rows += [(f"pixels of {name}", n) for name, n in zip(found["classes"], found["class_pixels"], strict=True)]
    console.print_table(str(folder.root), ("what", "value"), [*rows, ("bad samples", len(found["bad"]))])


@app.command()
def verify(shards: ShardsArgument, as_json: JsonOption = False) -> None:
    """Compare every digest and decode every sample; exit code 2 when anything is wrong.

    Of a URL, what stands there is looked at, and not this machine's copies.

    Example: distseg data verify shards
    """
    from distseg.data.cache import ShardCache
    from distseg.data.manifest import ShardFolder, is_url
    from distseg.data.verify import verify
    from distseg.home import Home

    kept = ShardCache.of(Home.from_environment())
    with kept.fresh() if is_url(shards) else nullcontext(kept) as cache, console.progress("verifying") as progress:
        folder = ShardFolder.open(shards, cache)
        bad = verify(folder, progress)
    samples = sum(folder.manifest.samples.values())
    if as_json:
        console.print_json({"samples": samples, "bad": [sample.model_dump() for sample in bad]})
    elif bad:
        rows = [(sample.shard or "", sample.key, sample.reason) for sample in bad]
        console.print_table(f"{folder.root}: {len(bad)} findings", ("shard", "sample", "what is wrong"), rows)
    if bad:
        raise DataError(f"{shards}: {len(bad)} findings, want none; pack the data again")
    if not as_json:
        print(f"{shards}: {samples} samples in {len(folder.manifest.shards)} shards, all as they were packed")
