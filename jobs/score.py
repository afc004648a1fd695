r"""Score training examples as a Ray job. The arguments are those of `raycol score`; paths are on shared storage.

    raycol submit score score.yaml --address http://HEAD:8265

or, with arguments in place of a file:

    ray job submit --working-dir . -- \
        python jobs/score.py NEGATIVES --teacher CROSS_ENCODER --out TAUGHT --num-workers 8 --resources GPU=1

Submitted again after a crash, it goes on from the parts that were finished.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
