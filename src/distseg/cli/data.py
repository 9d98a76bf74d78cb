"""``distseg data``: make-believe data, raw data to shards, and what is in them."""

from pathlib import Path
from typing import Annotated

import typer

from distseg.cli import console
from distseg.errors import DataError, InputError

app = typer.Typer(no_args_is_help=True, help="Raw data to shards, and what is in them.")

LayoutOption = Annotated[str, typer.Option(help="How the raw data lies in its folder: carvana.", show_default=False)]
ShardsArgument = Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that 'distseg data pack' made.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@app.command()
def synth(
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
    groups: Annotated[int, typer.Option(min=1, help="Cars.")] = 12,
    views: Annotated[int, typer.Option(min=1, help="Photographs of each car.")] = 16,
    size: Annotated[str, typer.Option(help="N or WxH in pixels.")] = "512",
    seed: SeedOption = 0,
) -> None:
    """Write make-believe photographs with masks, laid out as a real data set.

    Example: distseg data synth --layout carvana --out raw
    """
    from distseg.data.synthetic.carvana import write_carvana

    if layout != "carvana":
        raise DataError(f"layout '{layout}': cannot be made up; want one of: carvana")
    pixels = console.parse_size(size)
    if pixels is None:
        raise InputError(f"--size {size}: want N or WxH, such as 480x320")
    write_carvana(out, groups=groups, views=views, size=pixels, seed=seed)
    print(f"{out}: {groups * views} photographs of {groups} cars, {pixels[0]}x{pixels[1]} pixels")


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the raw data.", show_default=False)],
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
    size: Annotated[str, typer.Option(help="Stored size in pixels: N, WxH, or 'original'.")] = "512",
    val_fraction: Annotated[float, typer.Option(help="Part of the samples to validate on, in whole groups.")] = 0.2,
    test_fraction: Annotated[float, typer.Option(help="Part of the samples to set aside, in whole groups.")] = 0.0,
    folds: Annotated[int | None, typer.Option(help="Also deal train and val into this many folds.")] = None,
    seed: SeedOption = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result does not depend on them.")] = 1,
) -> None:
    """Check, resize and split raw data, and write it as shards.

    Example: distseg data pack raw --layout carvana --out shards --size 128
    """
    from distseg.data.info import info
    from distseg.data.layouts import read_corpus
    from distseg.data.manifest import ShardFolder
    from distseg.data.pack import pack as write_shards

    pixels = console.parse_size(size)
    corpus = read_corpus(layout, source)
    with console.progress("packing") as progress:
        write_shards(
            corpus,
            out,
            size=pixels,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            folds=folds,
            seed=seed,
            workers=workers,
            progress=progress,
        )
    found = info(ShardFolder.open(out))
    splits = ", ".join(f"{name} {number}" for name, number in found["splits"].items())
    print(
        f"{out}: {found['samples']} samples of {found['groups']} groups ({splits}) "
        f"in {found['shards']} shards, {found['bytes'] / 1e6:.1f} MB"
    )


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
    from distseg.data.info import class_counts_csv, info
    from distseg.data.manifest import ShardFolder

    folder = ShardFolder.open(shards)
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

    Example: distseg data verify shards
    """
    from distseg.data.manifest import ShardFolder
    from distseg.data.verify import verify

    folder = ShardFolder.open(shards)
    samples = sum(folder.manifest.samples.values())
    with console.progress("verifying") as progress:
        bad = verify(folder, progress)
    if as_json:
        console.print_json({"samples": samples, "bad": [sample.model_dump() for sample in bad]})
    elif bad:
        rows = [(sample.shard or "", sample.key, sample.reason) for sample in bad]
        console.print_table(f"{folder.root}: {len(bad)} findings", ("shard", "sample", "what is wrong"), rows)
    if bad:
        raise DataError(f"{shards}: {len(bad)} findings, want none; pack the data again")
    if not as_json:
        print(f"{shards}: {samples} samples in {len(folder.manifest.shards)} shards, all as they were packed")
