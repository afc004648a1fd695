import pytest

from raycol.demo.docstrings import Docstring, collect, make_dataset, split_first_sentence


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        ("One thing. Another thing.", "One thing.", "Another thing."),
        ("One thing\n\nAnother\nthing.", "One thing", "Another thing."),
        ("Only one thing.", "Only one thing.", ""),
        ("See e.g. this one.  `x` is next.", "See e.g. this one.", "`x` is next."),
    ],
)
def test_the_first_sentence_is_split_off(text: str, first: str, rest: str) -> None:
    assert split_first_sentence(text) == (first, rest)


@pytest.mark.slow
@pytest.mark.long
def test_collecting_is_deterministic() -> None:
    docstrings = collect(300, seed=1)
    assert docstrings == collect(300, seed=1) != collect(300, seed=2)
    assert len(docstrings) == 300
    names = [docstring.name for docstring in docstrings]
    assert names == sorted(set(names))
    assert all(docstring.first for docstring in docstrings)


@pytest.mark.slow
@pytest.mark.long
def test_everyday_modules_come_first() -> None:
    names = {docstring.name for docstring in collect(2000)}
    assert {"shutil.copytree", "textwrap.wrap", "statistics.median"} <= names


def test_test_queries_are_removed_from_their_documents_and_modules_are_held_out() -> None:
    docstrings = [
        Docstring(f"module{n}", f"module{n}.f", f"Does the thing number {n}.", f"It takes {n} and gives back n + {n}.")
        for n in range(60)
    ]
    dataset, pairs = make_dataset(docstrings, queries=8)
    assert len(dataset.queries) == 8
    contents = {passage.id: passage for passage in dataset.passages}
    assert len(contents) == 60
    test_modules = set()
    for query_id, text in dataset.queries.items():
        (relevant,) = dataset.qrels[query_id]
        assert text not in contents[relevant].text
        test_modules.add(relevant.removesuffix(".f"))
    assert pairs
    assert not [positive for _, positive in pairs if positive.split(".")[0] in test_modules]
