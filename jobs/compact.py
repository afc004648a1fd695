r"""Merge an index's small partitions as a Ray job. Takes the arguments of `raycol index compact`.

    raycol submit compact compact.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- python jobs/compact.py INDEX

Runs in one process, on the node where jobs start. Interrupted, it leaves the index unchanged.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["index", "compact", *sys.argv[1:]])
