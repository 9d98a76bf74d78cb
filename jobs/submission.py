"""Write a Kaggle submission on a Ray cluster whose nodes share the folders; run again, it goes on where it was.

ray job submit --working-dir . -- python jobs/submission.py /data/model.ts --images /data/test --out /data/out.csv
"""

import argparse
import sys
from pathlib import Path

from distseg.errors import InputError
from distseg.on_ray.job import absolute, end, say
from distseg.on_ray.predict import pipelines
from distseg.predict.images import list_images
from distseg.predict.row_format import PROFILES
from distseg.predict.segmenter import Recipe
from distseg.predict.submission import EncodeRows, identity_of, write_submission


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.ts", help="binary models; the mean of several")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, metavar="CSV")
    parser.add_argument("--sample", type=Path, metavar="CSV", help="write exactly its rows, in its order")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="carvana")
    parser.add_argument("--tta", action="store_true", help="mean of the image and its mirror image")
    parser.add_argument(
        "--workers", type=int, required=True, metavar="N", help="actors, a GPU each where there are any"
    )
    args = parser.parse_args()
    if args.workers < 1:
        raise InputError(f"--workers: got {args.workers}, want at least 1")
    models = {str(path): path for path in args.models}
    absolute({**models, "--images": args.images, "--out": args.out, "--sample": args.sample})
    return args


def main() -> str:
    args = parse()
    recipe, rows = Recipe(models=tuple(args.models), tta=args.tta), PROFILES[args.profile]
    with pipelines(recipe, EncodeRows(rows), args.workers) as encode:
        written = write_submission(
            encode,
            list_images(args.images),
            args.out,
            format=rows,
            identity=identity_of(recipe, rows),
            sample=args.sample,
            tell=say,
        )
    return f"{args.out}: {written} rows"


if __name__ == "__main__":
    sys.exit(end("submission", main))
