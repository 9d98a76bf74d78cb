"""Measure an exported model on shards, on a machine of a Ray cluster; prints one JSON document.

ray job submit --working-dir . -- python jobs/evaluate.py /shared/best.ts --data /data/shards --home /shared/distseg
"""

import argparse
import json
import sys
from pathlib import Path

from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
from distseg.home import Home
from distseg.on_ray.job import absolute, end
from distseg.predict.evaluate import evaluate


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.ts", help="made by 'distseg export'")
    parser.add_argument("--data", required=True, metavar="SHARDS", help="made by 'distseg data pack', or its URL")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    args = parser.parse_args()
    absolute({"MODEL.ts": args.model, "--data": args.data, "--home": args.home})
    shards = ShardFolder.open(args.data, ShardCache.of(Home.from_environment(args.home)))
    return json.dumps(evaluate(args.model, shards, args.split))


if __name__ == "__main__":
    sys.exit(end("evaluate", main))
