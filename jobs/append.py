r"""Add a corpus to an index as a Ray job. Takes the arguments of `raycol index append`.

    raycol submit append append.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- \
        python jobs/append.py INDEX CORPUS --num-workers 16

Submitted again after a crash, it resumes after the finished partitions.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["index", "append", *sys.argv[1:]])
