"""Measure exported models on shards, on a Ray cluster; several models are one ensemble.

ray job submit --working-dir . -- python jobs/evaluate.py /data/model.ts --data /data/shards --split test --workers 4

The options are those of 'distseg evaluate'; prints JSON.
"""

import sys

from distseg.cli.as_job import run_as_job
from distseg.cli.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(run_as_job(evaluate, __doc__, ["--json", *sys.argv[1:]]))
