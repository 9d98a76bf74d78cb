"""Search for the best Mask R-CNN for a person's own annotations on a Ray cluster, then export it.

ray job submit --working-dir . -- python jobs/tune_instances.py --raw /data/coco --home /shared/distseg
"""

import sys

from distseg.on_ray.job import end, say
from distseg.on_ray.search_job import parse_search_job, run_search


def main() -> str:
    raw = "COCO's json, or a folder that holds one and its images, such as Label Studio's export"
    study, _ = run_search(parse_search_job("coco", "configs/search/instances.yaml", __doc__, raw=raw), say)
    return f"everything lies in {study.folder}"


if __name__ == "__main__":
    sys.exit(end("tune_instances", main))
