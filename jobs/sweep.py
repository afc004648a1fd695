"""Train with sampled settings as a Ray job. Takes the arguments of `raycol sweep`; its folder is on shared storage.

    raycol submit sweep sweep-job.yaml --trials 24 --address http://HEAD:8265

with `recipe` and `out` in the file, or, with options instead of a file:

    ray job submit --working-dir . -- python jobs/sweep.py sweep.yaml --out /shared/my-sweep --trials 24

Submitted again after a crash, it goes on with the trials that have not ended.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
