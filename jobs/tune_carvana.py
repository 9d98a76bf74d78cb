"""Search for the best Carvana model on a Ray cluster, then export it and score its submission.

ray job submit --working-dir . -- python jobs/tune_carvana.py --raw /data/carvana --home /shared/distseg
"""

import argparse
import sys
from pathlib import Path

from distseg.data.manifest import is_url
from distseg.errors import DistsegError, InputError
from distseg.home import Home
from distseg.on_ray.carvana import SearchJob, tune_carvana


def parse() -> SearchJob:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/search/carvana.yaml"), help="search file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--raw", type=Path, metavar="DIR", help="Kaggle's Carvana folder; packed first")
    source.add_argument("--data", metavar="SHARDS", help="folder made by 'distseg data pack', or its URL")
    parser.add_argument("--study", metavar="NAME", help="default: made from the config's name and the time")
    parser.add_argument("--resume", action="store_true", help="go on with the study of this name")
    parser.add_argument("--trials", type=int, help="trials in all; default: the search file's")
    parser.add_argument("--workers-per-trial", type=int, metavar="N", help="DDP workers of each trial")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="base config; study.key: the search")
    args = parser.parse_args()
    for name, path in (("--raw", args.raw), ("--data", args.data), ("--home", args.home)):
        if path is not None and not (Path(path).is_absolute() or is_url(path)):
            raise InputError(f"{name}: got the relative path '{path}', want an absolute one: a job runs elsewhere")
    return SearchJob(
        home=Home.from_environment(args.home),
        search_file=args.config,
        overrides=args.overrides,
        raw=args.raw,
        data=args.data,
        study=args.study,
        resume=args.resume,
        trials=args.trials,
        workers_per_trial=args.workers_per_trial,
    )


def main() -> int:
    try:
        folder = tune_carvana(parse(), write=lambda line: print(line, flush=True))
    except DistsegError as error:
        print(f"tune_carvana: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"everything lies in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
