"""Query an endpoint: its index, a search, a document, and why it matches.

    raycol serve my-index
    python docs/examples/query_endpoint.py http://127.0.0.1:8000 "parse a date from a string"

With keys, it reads its own from RAYCOL_API_KEY.
"""

import sys

import raycol


def main(url: str, query: str) -> None:
    """Print the best three documents of an endpoint for a query, and the matches of the first."""
    with raycol.Client(url) as client:
        index = client.index()
        print(f"{index.name}: version {index.version}, {index.documents} documents")
        response = client.search(query, k=3)
        for hit in response.results[0]:
            print(f"{hit.score:6.2f}  {hit.id}  {hit.text}")
        print(f"{response.shards.answered} of {response.shards.total} shards, {response.took_ms['total']:.0f} ms")
    with raycol.Retriever(url) as retriever:  # the interface of an index's retriever, over the same endpoint
        print(retriever.explain(query, response.results[0][0].id))


if __name__ == "__main__":
    main(sys.argv[1], " ".join(sys.argv[2:]))
