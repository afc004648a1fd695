"""How a line of text names a system."""

import pytest

from raycol.errors import InputError
from raycol.evaluation.systems import Stage, System, parse_systems


@pytest.mark.parametrize(
    ("spec", "system"),
    [
        ("bm25", System("bm25", Stage("bm25", ""))),
        ("exact:/models/colbert", System("exact:colbert", Stage("exact", "/models/colbert"))),
        (
            "exact:m,embedding_size=64",
            System("exact:m,embedding_size=64", Stage("exact", "m", {"embedding_size": 64})),
        ),
        ("ours=exact:a/b", System("ours", Stage("exact", "a/b"))),
        ("s3://b/i?region=eu", None),
        (
            "index:s3://b/i?region=eu,effort=fast,n_probe=4",
            System(
                "index:i?region=eu,effort=fast,n_probe=4",
                Stage("index", "s3://b/i?region=eu", {"effort": "fast", "n_probe": 4}),
            ),
        ),
        ("http://h:8000/x", System("h:8000", Stage("endpoint", "http://h:8000/x"))),
        (
            "r=bm25,depth=20 > exact:m",
            System("r", Stage("bm25", "", {"depth": 20}), Stage("exact", "m")),
        ),
        ("run:runs/{collection}.trec", System("run:runs/{collection}.trec", Stage("run", "runs/{collection}.trec"))),
    ],
)
def test_a_system_is_parsed(spec: str, system: System | None) -> None:
    if system is None:
        with pytest.raises(InputError, match="is not a system"):
            parse_systems([spec])
    else:
        assert parse_systems([spec]) == [system]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["colbert"], "'colbert' is not a system; expected"),
        (["exact:"], "'exact:' is not a system"),
        (["bm25:x"], "'bm25:x' is not a system"),
        (["index"], "'index' is not a system"),
        (["index:a,efort=fast"], "index has no setting 'efort'; it has effort, n_probe"),
        (["exact:a,embedding_size=x"], "embedding_size is 'x'; expected a positive whole number"),
        (["bm25,effort=fast"], "bm25 has no setting 'effort'; it has none"),
        (["bm25,depth=9"], "bm25 has no setting 'depth'"),
        (["index:a,n_probe=0"], "n_probe is '0'; expected a positive whole number"),
        (["index:a,effort=slow"], "effort is 'slow'; expected one of fast, default, thorough, exact"),
        (["bm25 > bm25"], "bm25 cannot rerank; expected one of exact"),
        (["bm25 > exact:m > exact:n"], "expected [NAME=]SYSTEM"),
        (["bm25 > "], "expected [NAME=]SYSTEM"),
        (["exact:a/m", "exact:b/m"], "two systems have this name; give each a name, as in NAME=exact:m"),
    ],
)
def test_an_unknown_system_is_refused(specs: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_systems(specs)
    assert message in str(error.value)


def test_a_collection_takes_the_place_of_its_name() -> None:
    (system,) = parse_systems(["run:runs/{collection}.trec,depth=5 > index:{collection}"])
    assert system.name == "run:runs/{collection}.trec,depth=5 > index:{collection}"
    there = system.for_collection("nfcorpus")
    assert (there.first.target, there.reranker.target if there.reranker else None) == (
        "runs/nfcorpus.trec",
        "nfcorpus",
    )
    assert there.name == system.name
