"""Measure a model or an index as a Ray job. The arguments are those of `raycol evaluate`.

    raycol submit evaluate evaluate.yaml --address http://HEAD:8265

or, with arguments in place of a file:

    ray job submit --working-dir . -- python jobs/evaluate.py BEIR_FOLDER --index INDEX
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
