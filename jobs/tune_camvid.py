"""Search for the best CamVid model on a Ray cluster, then export it.

ray job submit --working-dir . -- python jobs/tune_camvid.py --raw /data/camvid --home /shared/distseg
"""

import sys

from distseg.on_ray.job import end, say
from distseg.on_ray.search_job import parse_search_job, run_search


def main() -> str:
    job = parse_search_job("folders", "configs/search/camvid.yaml", __doc__, raw="folder of train/, trainannot/ ...")
    study, _ = run_search(job, say)
    return f"everything lies in {study.folder}"


if __name__ == "__main__":
    sys.exit(end("tune_camvid", main))
