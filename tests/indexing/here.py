"""Building and appending in this process; that Ray's workers write the same bytes is tested in test_build.py."""

from functools import partial

from raycol import indexing
from raycol.distributed.executor import IN_PROCESS

build_index = partial(indexing.build_index, executor=IN_PROCESS)
append_corpus = partial(indexing.append_corpus, executor=IN_PROCESS)
