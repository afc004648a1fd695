"""Measure a model or an index as a Ray job. The arguments are those of `raycol evaluate`.

ray job submit --working-dir . -- python jobs/evaluate.py BEIR_FOLDER --index INDEX
"""

import sys

from raycol.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
