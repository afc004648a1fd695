r"""Train an encoder as a Ray job. The arguments are those of `raycol train`; paths are on shared storage.

ray job submit --working-dir . -- \
        python jobs/train.py --model BACKBONE --data PAIRS --out MODEL --num-workers 8 --use-gpu
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
