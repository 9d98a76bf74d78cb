"""``distseg augment``: what a policy does to pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distseg.config import AugmentConfig

app = typer.Typer(no_args_is_help=True, help="Augmentation, made visible.")


@app.callback()
def about() -> None:
    """Augmentation, made visible."""  # without a callback, typer drops the name of an only command


@app.command()
def preview(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Raw data, or shards that were packed of it.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The policy's numbers, e.g. augment.adaptive.stack_max=4."),
    ] = None,
    policy: Annotated[str, typer.Option(metavar="NAME", help="A policy, e.g. adaptive.", show_default=False)] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(metavar="PANEL.png", help="Picture to write.", show_default=False)] = ...,  # type: ignore[assignment]
    levels: Annotated[
        str | None,
        typer.Option(metavar="L,L,...", help="Of policy adaptive, in [0, 1]; default 0.1,0.5,0.9.", show_default=False),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Of raw data: carvana, folders or coco; default: as it looks.", show_default=False),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="N or WxH that a network would see; default: of shards, the stored one.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=16, help="How many, of different groups if there are.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="As the seed of a run.")] = 0,
) -> None:
    """Draw a batch and its masks, then the same as the policy leaves it, at each level.

    Example: distseg augment preview raw --policy adaptive --levels 0.1,0.5,0.9 --out panel.png
    """
    from distseg import atomic
    from distseg.augment.examples import examples_of
    from distseg.augment.preview import preview as draw
    from distseg.cli.console import parse_size
    from distseg.data.cache import ShardCache
    from distseg.errors import InputError
    from distseg.home import Home

    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: want a name that ends in .png")
    cfg, shown = _config(policy, overrides or []), _levels(policy, levels)
    wanted = None if size is None else parse_size(size)
    examples = examples_of(source, layout, samples, wanted, ShardCache.of(Home.from_environment()))
    picture = draw(examples, cfg, shown, seed)
    with atomic.replacing(out) as file:
        picture.save(file, "png")
    print(f"{out}: {len(examples)} samples under policy '{policy}', {picture.width}x{picture.height} pixels")


def _config(policy: str, overrides: Sequence[str]) -> "AugmentConfig":
    from distseg.config import RunConfig, parse_assignment, with_overrides
    from distseg.errors import InputError

    changes = dict(map(parse_assignment, overrides))
    for path in changes:
        if not path.startswith("augment."):
            raise InputError(f"override '{path}': want a field of augment, such as augment.jitter.hue=0.1")
    return with_overrides(RunConfig(), {**changes, "augment.policy": policy}).augment


def _levels(policy: str, text: str | None) -> list[float]:
    """Levels in ascending order, so that error falls down the picture; InputError on what is none."""
    from distseg.errors import InputError

    if text is None:
        return [0.1, 0.5, 0.9]
    if policy != "adaptive":
        raise InputError(f"--levels {text}: policy '{policy}' has no levels; leave it out, or use --policy adaptive")
    try:
        levels = sorted(float(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(f"--levels {text}: want numbers with commas between, such as 0.1,0.5,0.9") from error
    if not all(0 <= level <= 1 for level in levels):
        raise InputError(f"--levels {text}: want numbers from 0 to 1, such as 0.1,0.5,0.9")
    return levels
