"""Evaluate a model or an index as a Ray job. Takes the arguments of `raycol evaluate`.

    raycol submit evaluate evaluate.yaml --address http://HEAD:8265

or, with options instead of a file:

    ray job submit --working-dir . -- python jobs/evaluate.py BEIR_FOLDER --index INDEX
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
