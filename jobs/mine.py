r"""Find hard negatives as a Ray job. The arguments are those of `raycol mine`; paths are on shared storage.

    raycol submit mine mine.yaml --address http://HEAD:8265

or, with arguments in place of a file:

    ray job submit --working-dir . -- \
        python jobs/mine.py INDEX BEIR_FOLDER --out NEGATIVES --margin 0.2 --num-workers 16

Submitted again after a crash, it goes on from the parts that were finished.
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["mine", *sys.argv[1:]])
