"""Write a Kaggle submission on a Ray cluster whose nodes share the folders; run again, it goes on where it was.

ray job submit --working-dir . -- python jobs/submission.py /data/model.ts --images /data/test --out /data/out.csv
"""

import argparse
import sys
from pathlib import Path

from distseg.errors import DistsegError, InputError
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
        raise InputError(f"--workers {args.workers}: want 1 or more")
    named = [*(("MODEL.ts", path) for path in args.models), ("--images", args.images), ("--out", args.out)]
    for name, path in [*named, ("--sample", args.sample)]:
        if path is not None and not path.is_absolute():
            raise InputError(f"{name}: got the relative path '{path}', want an absolute one: a job runs elsewhere")
    return args


def main() -> int:
    try:
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
                tell=print,
            )
    except DistsegError as error:
        print(f"submission: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{args.out}: {written} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
