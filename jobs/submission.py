"""Write a Kaggle submission with an exported model, on a machine of a Ray cluster.

ray job submit --working-dir . -- python jobs/submission.py /shared/best.ts --images /data/test --out /shared/sub.csv
"""

import argparse
import sys
from pathlib import Path

from distseg.errors import InputError
from distseg.export.torchscript import load
from distseg.on_ray.job import absolute, end
from distseg.predict.images import list_images
from distseg.predict.submission import write_submission


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.ts", help="made by 'distseg export'")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="at their original size")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="one that exists is replaced")
    parser.add_argument("--sample", type=Path, metavar="CSV", help="Kaggle's sample_submission.csv: exactly its rows")
    args = parser.parse_args()
    absolute({"MODEL.ts": args.model, "--images": args.images, "--out": args.out, "--sample": args.sample})
    loaded = load(args.model)
    if loaded.manifest.task != "binary":
        raise InputError(f"{args.model}: a model of task '{loaded.manifest.task}'; a submission needs task 'binary'")
    rows = write_submission(loaded.module, list_images(args.images), args.out, sample=args.sample)
    return f"{args.out}: {rows} rows"


if __name__ == "__main__":
    sys.exit(end("submission", main))
