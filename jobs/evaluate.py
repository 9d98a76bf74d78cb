"""Measure exported models on shards, on a Ray cluster; several models are one ensemble.

ray job submit --working-dir . -- python jobs/evaluate.py /data/model.ts --data /data/shards --split test --workers 4
"""

import argparse
import json
import sys
from pathlib import Path

from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
from distseg.errors import InputError
from distseg.home import Home
from distseg.on_ray.job import absolute, end
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
        raise InputError(f"--workers: got {args.workers}, want at least 1")
    absolute({**{str(path): path for path in args.models}, "--data": args.data, "--home": args.home})
    return args


def main() -> str:
    args = parse()
    cache = ShardCache.of(Home.from_environment(args.home))
    shards, recipe = ShardFolder.open(args.data, cache), Recipe(models=tuple(args.models), tta=args.tta)
    with evaluators(recipe, shards.root, args.split, cache, args.workers) as elsewhere:
        parts = PARTS_PER_WORKER * args.workers
        result = evaluate(recipe, shards, args.split, elsewhere=elsewhere, parts=parts, cache=cache)
    return json.dumps(result, indent=2)


if __name__ == "__main__":
    sys.exit(end("evaluate", main))
