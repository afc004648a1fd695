r"""Find hard negatives as a Ray job. Takes the arguments of `raycol mine`; paths are on shared storage.

    raycol submit mine mine.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- \
        python jobs/mine.py INDEX BEIR_FOLDER --out NEGATIVES --margin 0.2 --num-workers 16

Submitted again after a crash, it resumes after the finished parts.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["mine", *sys.argv[1:]])
