r"""Score training examples as a Ray job. Takes the arguments of `raycol score`; paths are on shared storage.

    raycol submit score score.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- \
        python jobs/score.py NEGATIVES --teacher CROSS_ENCODER --out SCORED --num-workers 8 --resources GPU=1

Submitted again after a crash, it resumes after the finished parts.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
