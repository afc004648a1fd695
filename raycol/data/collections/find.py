"""Find test collections by name: a folder, a URI, hf:NAME, ir:NAME, or the name of a benchmark.

| benchmark | collections |
|---|---|
| `beir` | the public collections of BEIR; CQADupStack's 12 forums are a group |
| `nanobeir` | the 13 of NanoBEIR |
| `bright` | the 12 of BRIGHT |

`beir/scifact`, `beir/cqadupstack`, `nanobeir/scifact` and `bright/biology` are parts of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raycol.core.uris import is_uri
from raycol.data.collection import Collection
from raycol.data.collections.folders import folder_collections
from raycol.data.collections.hub import hub_collections
from raycol.data.collections.ir import ir_collections
from raycol.data.collections.reference import CollectionRef
from raycol.data.collections.splits import SplitChoice, test_split
from raycol.data.files import HUB, IR_DATASETS, path_kind
from raycol.errors import InputError

_NANOBEIR = "hf:sentence-transformers/NanoBEIR-en"
_BRIGHT = "hf:xlangai/BRIGHT"
# BEIR's public collections, by BEIR's names. MTEB's copies have the judgements beside the texts.
_BEIR = {
    "msmarco": "mteb/msmarco",
    "trec-covid": "mteb/trec-covid",
    "nfcorpus": "mteb/nfcorpus",
    "nq": "mteb/nq",
    "hotpotqa": "mteb/hotpotqa",
    "fiqa": "mteb/fiqa",
    "arguana": "mteb/arguana",
    "webis-touche2020": "mteb/touche2020",
    **{
        f"cqadupstack/{forum}": f"mteb/cqadupstack-{forum}"
        for forum in (
            "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
            "webmasters", "wordpress",
        )
    },
    "quora": "mteb/quora",
    "dbpedia-entity": "mteb/dbpedia",
    "scidocs": "mteb/scidocs",
    "fever": "mteb/fever",
    "climate-fever": "mteb/climate-fever",
    "scifact": "mteb/scifact",
}  # fmt: skip
# BEIR reports MS MARCO on its development set.
_BEIR_SPLITS = {"msmarco": "dev"}


def find_collections(name: str, split: str | None = None, choose: SplitChoice = test_split) -> list[CollectionRef]:
    """List the test collections of a name; none is opened, and no corpus is read.

    Args:
        name: a folder or URI in BEIR's or MS MARCO's layout, or a folder of such folders; hf:NAME, a dataset on the
            Hugging Face hub, or hf: and the path of a copy; ir:NAME, a dataset of ir_datasets; or a benchmark or a
            part of one. A path that exists comes first.
        split: of the judgements.
        choose: chooses one if it is not given and the collection has several; by default `test` or the only one.

    Raises:
        InputError: there is no such collection or split.
    """
    if name.startswith(HUB):
        return hub_collections(name, split, choose)
    if name.startswith(IR_DATASETS):
        return ir_collections(name, split)
    benchmark, _, part = name.partition("/")
    if is_uri(name) or benchmark not in _BENCHMARKS or path_kind(name) != "nothing":
        return folder_collections(name, split, choose)
    collections = _BENCHMARKS[benchmark](split, choose)
    chosen = [ref for ref in collections if not part or part.lower() in _names_of(ref)]
    if not chosen:
        raise InputError(f"{name}: no such collection; {benchmark} has {', '.join(ref.name for ref in collections)}")
    return chosen


def is_benchmark(name: str) -> bool:
    """Whether a name without a folder is that of a benchmark, or of a part of one."""
    return name.partition("/")[0] in _BENCHMARKS


def _names_of(ref: CollectionRef) -> set[str]:
    """Names by which a part of a benchmark is chosen: its own, in full or the last component, and its group's."""
    name = ref.name.lower()
    last = name.rpartition("/")[2]
    return {name, last, last.removeprefix("nano"), ref.group or name}


def _beir(split: str | None, choose: SplitChoice) -> list[CollectionRef]:
    return [
        CollectionRef(
            name, partial(_open_only, f"{HUB}{dataset}", split or _BEIR_SPLITS.get(name), choose), _group_of(name)
        )
        for name, dataset in _BEIR.items()
    ]


def _group_of(name: str) -> str | None:
    return name.rpartition("/")[0] or None


def _open_only(uri: str, split: str | None, choose: SplitChoice) -> Collection:
    (ref,) = hub_collections(uri, split, choose)
    return ref.open()


_BENCHMARKS: dict[str, Callable[[str | None, SplitChoice], list[CollectionRef]]] = {
    "beir": _beir,
    "nanobeir": partial(hub_collections, _NANOBEIR),
    "bright": partial(hub_collections, _BRIGHT),
}
