"""Build and append in this process; test_build.py tests that Ray workers write the same bytes."""

from functools import partial

from raycol import indexing
from raycol.distributed.executor import IN_PROCESS

build_index = partial(indexing.build_index, executor=IN_PROCESS)
append_corpus = partial(indexing.append_corpus, executor=IN_PROCESS)
compact_index = partial(indexing.compact_index, executor=IN_PROCESS)
