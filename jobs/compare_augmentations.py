"""Compare augmentation policies on a Ray cluster: each from several seeds, all with the same budget.

ray job submit --working-dir . -- python jobs/compare_augmentations.py --data /shared/shards --home /shared/distseg

Leaves comparison.md, .json and .png in the study's folder. --open-test also measures the test groups, once.
"""

import argparse
import sys
from pathlib import Path

from distseg.errors import InputError
from distseg.home import Home
from distseg.on_ray.compare import CompareJob, compare_augmentations
from distseg.on_ray.job import absolute, end, say

CONFIG = Path("configs/search/carvana_augmentations.yaml")


def parse() -> CompareJob:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"search file; default {CONFIG}")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--raw", type=Path, metavar="DIR", help="raw folder; packed first")
    source.add_argument("--data", metavar="SHARDS", help="folder made by 'distseg data pack', or its URL")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="of --raw: groups to choose on")
    parser.add_argument("--test-fraction", type=float, default=0.2, help="of --raw: groups to open once")
    parser.add_argument("--policies", metavar="A,B,...", help="default: the search file's")
    parser.add_argument("--seeds", type=int, metavar="N", help="trainings of each policy; default: the search file's")
    parser.add_argument("--study", metavar="NAME", help="default: made from the config's name and the time")
    parser.add_argument("--resume", action="store_true", help="go on with the study of this name")
    parser.add_argument("--open-test", action="store_true", help="measure the test groups too; refused a second time")
    parser.add_argument("--open-test-again", action="store_true", help="measure them although they were opened before")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="base config, for every policy alike")
    args = parser.parse_args()
    absolute({"--raw": args.raw, "--data": args.data, "--home": args.home})
    if args.seeds is not None and args.seeds < 1:
        raise InputError(f"--seeds: got {args.seeds}, want at least 1")
    return CompareJob(
        home=Home.from_environment(args.home),
        search_file=args.config,
        overrides=args.overrides,
        raw=args.raw,
        data=args.data,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        policies=None if args.policies is None else tuple(args.policies.split(",")),
        seeds=args.seeds,
        study=args.study,
        resume=args.resume,
        open_test=args.open_test,
        open_test_again=args.open_test_again,
    )


def main() -> str:
    return f"everything lies in {compare_augmentations(parse(), write=say)}"


if __name__ == "__main__":
    sys.exit(end("compare_augmentations", main))
