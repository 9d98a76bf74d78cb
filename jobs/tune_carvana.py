"""Search for the best Carvana model on a Ray cluster, then export it and score its submission.

ray job submit --working-dir . -- python jobs/tune_carvana.py --raw /data/carvana --home /shared/distseg
"""

import sys

from distseg.on_ray.carvana import tune_carvana
from distseg.on_ray.job import end, say
from distseg.on_ray.search_job import parse_search_job


def main() -> str:
    job = parse_search_job("carvana", "configs/search/carvana.yaml", __doc__, raw="Kaggle's Carvana folder")
    return f"everything lies in {tune_carvana(job, say)}"


if __name__ == "__main__":
    sys.exit(end("tune_carvana", main))
