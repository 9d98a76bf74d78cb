"""``distseg evaluate``: exported files on shards."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from distseg.cli.inference import Device, Foreign, Tta, Workers

_PARTS_PER_WORKER = 4


def evaluate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.ts...", help="Made by 'distseg export'; the mean.")],
    data: Annotated[str, typer.Option(metavar="SHARDS", help="Folder made by 'distseg data pack', or its URL.")],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, val or test.")] = "val",
    tta: Tta = False,
    panel: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw the best, the median and the worst sample.")
    ] = None,
    workers: Workers = None,
    device: Device = None,
    foreign: Foreign = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Measure exported models on a split of the shards, at their stored size; several are one ensemble.

    Example:

        distseg evaluate model.ts --data shards --panel panel.png
    """
    from distseg.cli.console import print_json, print_table
    from distseg.data.cache import ShardCache
    from distseg.data.manifest import ShardFolder
    from distseg.home import Home
    from distseg.predict.evaluate import evaluate as evaluate_files
    from distseg.predict.evaluate import seen_in_training
    from distseg.predict.segmenter import Recipe
    from distseg.tasks.drawing import write_png

    cache = ShardCache.of(Home.from_environment(home))
    shards = ShardFolder.open(data, cache)
    recipe = Recipe(models=tuple(path.resolve() for path in models), tta=tta, device=device, foreign=foreign)
    for path in seen_in_training(recipe, split):
        typer.echo(f"note: the training of {path.name} saw samples of '{split}'; its figure is too good", err=True)
    options: dict[str, Any] = {"cache": cache}
    with ExitStack() as stack:
        if workers is not None:
            from distseg.on_ray.predict import evaluators

            options["elsewhere"] = stack.enter_context(evaluators(recipe, shards.root, split, cache, workers))
            options["parts"] = _PARTS_PER_WORKER * workers
        if panel is not None:
            options["panel"] = lambda picture: write_png(picture, panel)
        result = evaluate_files(recipe, shards, split, **options)
    if as_json:
        print_json(result)
        return
    rows = [(key, f"{value:.4f}") for key, value in result["metrics"].items() if isinstance(value, float)]
    name = ", ".join(map(str, models))
    print_table(f"{name} on {result['samples']} {split} samples", ("metric", "value"), rows)
