"""``distseg evaluate``: an exported file on shards."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.ts", help="A file made by 'distseg export'.")],
    data: Annotated[str, typer.Option(metavar="SHARDS", help="Folder made by 'distseg data pack', or its URL.")],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, val or test.")] = "val",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure an exported model on a split of the shards, at their stored size.

    Example:

        distseg evaluate model.ts --data shards
    """
    from distseg.cli.console import print_json, print_table
    from distseg.data.cache import ShardCache
    from distseg.data.manifest import ShardFolder
    from distseg.home import Home
    from distseg.predict.evaluate import evaluate as evaluate_file

    shards = ShardFolder.open(data, ShardCache.of(Home.from_environment()))
    result = evaluate_file(model, shards, split)
    if as_json:
        print_json(result)
        return
    rows = [(key, f"{value:.4f}") for key, value in result["metrics"].items() if isinstance(value, float)]
    print_table(f"{model} on {result['samples']} {split} samples", ("metric", "value"), rows)
