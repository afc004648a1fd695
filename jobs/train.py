r"""Train an encoder as a Ray job. Takes the arguments of `raycol train`; paths are on shared storage.

    raycol submit train jobs/configs/gte-moderncolbert.yaml --out s3://my-bucket/gte --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- \
        python jobs/train.py jobs/configs/gte-moderncolbert.yaml --out MODEL --num-workers 8 --resources GPU=1

Submitted again after a crash, it resumes from its last checkpoint.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
