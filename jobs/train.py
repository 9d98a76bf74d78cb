"""Train one model on a Ray cluster.

ray job submit --working-dir . -- python jobs/train.py configs/carvana_unet.yaml --data /data/shards --home /shared
"""

import argparse
import sys
from pathlib import Path

from distseg.config import load_run
from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
from distseg.errors import HomeError
from distseg.home import Home, unique_name
from distseg.on_ray.job import absolute, end
from distseg.on_ray.session import check_workers, cluster_total, session
from distseg.train.run_folder import RunSpec


def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the config, e.g. optim.lr=3e-4")
    parser.add_argument("--data", required=True, metavar="SHARDS", help="made by 'distseg data pack', or its URL")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="DDP workers")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    args = parser.parse_args()
    absolute({"--data": args.data, "--home": args.home})
    cfg, home = load_run(args.config, args.overrides), Home.from_environment(args.home)
    name = args.resume or unique_name(args.config.stem)
    if args.resume and not home.run(name).is_dir():
        raise HomeError(f"run '{name}': not found in {home.runs}; start it without --resume")
    cache = ShardCache.of(home)
    ShardFolder.open(args.data, cache)
    spec = RunSpec(cfg, args.data, home.run(name), trial_id=name, cache=cache)
    with session():
        from distseg.on_ray.train import fit

        cpus, gpus = cfg.train.threads, 1 if cluster_total("GPU") else 0
        check_workers(args.workers, cpus, gpus)
        storage = home.root / "cache" / "ray"
        record = fit(spec, storage=storage, workers=args.workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    return f"{record.metric} {record.metrics[record.metric]:.4f}; everything lies in {spec.folder}"


if __name__ == "__main__":
    sys.exit(end("train", main))
