r"""Build an index as a Ray job. Takes the arguments of `raycol index build`; paths are on shared storage.

    raycol submit index build.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- \
        python jobs/index.py CORPUS --model MODEL --out INDEX --num-workers 64

Submitted again after a crash, it resumes after the finished partitions.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["index", "build", *sys.argv[1:]])
