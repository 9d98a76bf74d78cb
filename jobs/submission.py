"""Write a Kaggle submission on a Ray cluster whose nodes share the folders; run again, it goes on where it was.

ray job submit --working-dir . -- python jobs/submission.py /data/m.ts --images /data/test --out /data/s.csv --workers 4

The options are those of 'distseg submission'.
"""

import sys

from distseg.cli.as_job import run_as_job
from distseg.cli.submission import submission

if __name__ == "__main__":
    sys.exit(run_as_job(submission, __doc__, sys.argv[1:]))
