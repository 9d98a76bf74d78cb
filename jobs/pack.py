"""Audit raw data and pack it as shards on a Ray cluster whose nodes share the folders.

ray job submit --working-dir . -- python jobs/pack.py /data/carvana --layout carvana --out /data/shards --size 512
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from distseg.data.layouts.base import LayoutOptions
from distseg.data.pack_raw import PackJob, pack_raw
from distseg.data.sizes import parse_size
from distseg.errors import InputError
from distseg.home import Home
from distseg.on_ray.job import absolute, end, say
from distseg.on_ray.pack import cluster


def parse() -> tuple[PackJob, int | None]:
    """The job, and how many CPUs it may take; None for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SRC", help="the raw data")
    parser.add_argument("--layout", required=True, help="carvana, folders or coco")
    parser.add_argument("--out", type=Path, metavar="SHARDS", help="default: HOME/shards/<name of SRC>")
    parser.add_argument("--size", default="512", help="stored size in pixels: N, WxH, or 'original'")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="part of the samples to validate on")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="part of the samples to set aside")
    parser.add_argument("--given-split", action="store_true", help="keep the folder's own split instead")
    parser.add_argument("--folds", type=int, help="also deal train and val into this many folds")
    parser.add_argument("--group-regex", metavar="RE", help="what it finds in an image's name is the group")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, and colours if any")
    parser.add_argument("--ignore-label", type=int, metavar="N", help="label that marks void")
    parser.add_argument("--mask-encoding", choices=("png", "bits", "fastest"), default="png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, metavar="N", help="CPUs to take; default: all of the cluster")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: want 1 or more")
    absolute({"SRC": args.source, "--out": args.out, "--classes": args.classes, "--home": args.home})
    job = PackJob(
        layout=args.layout,
        source=args.source,
        options=LayoutOptions(args.group_regex, args.classes, args.ignore_label),
        out=args.out or Home.from_environment(args.home).root / "shards" / args.source.name,
        size=parse_size(args.size),
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        given_split=args.given_split,
        folds=args.folds,
        seed=args.seed,
        mask_encoding=args.mask_encoding,
    )
    return job, args.workers


def main() -> str:
    job, workers = parse()
    with cluster(workers) as elsewhere:
        manifest = pack_raw(job, elsewhere, lambda label: nullcontext(None), warn=say)
    return f"{job.out}: {sum(manifest.samples.values())} samples in {len(manifest.shards)} shards"


if __name__ == "__main__":
    sys.exit(end("pack", main))
