r"""Build an index as a Ray job. The arguments are those of `raycol index build`; paths are on shared storage.

    raycol submit index build.yaml --address http://HEAD:8265

or, with arguments in place of a file:

    ray job submit --working-dir . -- \
        python jobs/index.py CORPUS --model MODEL --out INDEX --num-workers 64

Submitted again after a crash, it goes on from the partitions that were finished.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["index", "build", *sys.argv[1:]])
