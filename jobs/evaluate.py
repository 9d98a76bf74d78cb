"""Measure exported models on shards, on a Ray cluster; several models are one ensemble.

ray job submit --working-dir . -- python jobs/evaluate.py /data/model.ts --data /data/shards --split test --workers 4
"""

import argparse
import json
import sys
from pathlib import Path

from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder, is_url
from distseg.errors import DistsegError, InputError
from distseg.home import Home
from distseg.on_ray.predict import evaluators
from distseg.predict.evaluate import evaluate
from distseg.predict.segmenter import Recipe

PARTS_PER_WORKER = 4


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.ts")
    parser.add_argument(
        "--data", required=True, metavar="SHARDS", help="folder made by 'distseg data pack', or its URL"
    )
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--tta", action="store_true", help="mean of the image and its mirror image")
    parser.add_argument(
        "--workers", type=int, required=True, metavar="N", help="actors, a GPU each where there are any"
    )
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    args = parser.parse_args()
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: want 1 or more")
    named = [*(("MODEL.ts", path) for path in args.models), ("--data", args.data), ("--home", args.home)]
    for name, path in named:
        if path is not None and not (Path(path).is_absolute() or is_url(path)):
            raise InputError(f"{name}: got the relative path '{path}', want an absolute one: a job runs elsewhere")
    return args


def main() -> int:
    try:
        args = parse()
        cache = ShardCache.of(Home.from_environment(args.home))
        shards, recipe = ShardFolder.open(args.data, cache), Recipe(models=tuple(args.models), tta=args.tta)
        with evaluators(recipe, shards.root, args.split, cache, args.workers) as elsewhere:
            parts = PARTS_PER_WORKER * args.workers
            result = evaluate(recipe, shards, args.split, elsewhere=elsewhere, parts=parts, cache=cache)
    except DistsegError as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
