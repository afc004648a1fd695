"""Prints what was measured and what is calculated, and puts it into docs/scaling.md."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from scaling.kept import sizes
from scaling.large import Node
from scaling.picture import draw
from scaling.tables import tables

DOCS = Path(__file__).parents[2] / "docs"

# On-demand and spot prices in us-east-1; docs/scaling.md says whose list they are from, and when it was read.
_BUILD_NODE = "c6i.32xlarge:128:256:5.44:1.52"
_SERVE_NODE = "r6i.8xlarge:32:256:2.016"
_STORAGE_PRICE = 0.023
# Measured (docs/indexing.md): MiniLM, 22 M parameters, 350,000 passages, a core of an AMD EPYC (Zen 5).
_ENCODE_RATE = 2508.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the calculation takes from whoever asks."""
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md, and draw")
    parser.add_argument(
        "--encode-rate", type=float, default=_ENCODE_RATE, metavar="N", help="tokens a core encodes a second (2508)"
    )
    parser.add_argument(
        "--gpu-rate", type=float, default=0.0, metavar="N", help="tokens a GPU encodes a second (none)"
    )
    parser.add_argument("--gpu-price", type=float, default=0.0, metavar="PRICE", help="of a GPU an hour")
    parser.add_argument("--build-node", type=Node.parse, default=_BUILD_NODE, metavar="NAME:VCPUS:GIB:PRICE:SPOT")
    parser.add_argument("--build-nodes", type=int, default=10, metavar="N", help="how many build (10)")
    parser.add_argument("--serve-node", type=Node.parse, default=_SERVE_NODE, metavar="NAME:VCPUS:GIB:PRICE")
    parser.add_argument(
        "--storage-price", type=float, default=_STORAGE_PRICE, metavar="PRICE", help="a GiB and month (0.023)"
    )
    parser.add_argument(
        "--cores-per-vcpu", type=float, default=0.5, metavar="SHARE", help="two threads share a core (0.5)"
    )
    parser.add_argument(
        "--shard-ms", type=float, default=25.0, metavar="MS", help="CPU that a shard may take a query (25)"
    )
    parser.add_argument("--utilisation", type=float, default=0.6, metavar="SHARE", help="cores that are at work (0.6)")
    parser.add_argument("--text-bytes", type=float, default=2.0, metavar="N", help="bytes of text kept a token (2)")
    parser.add_argument(
        "--docs-per-part", type=int, default=4096, metavar="N", help="documents a worker takes at once (4096)"
    )


def report(options: argparse.Namespace) -> None:
    """Print everything; with `--write` into the doc, and the picture beside it."""
    found = sizes(options.keep)
    if len(found) < 2:
        sys.exit(f"{options.keep}: {len(found)} sizes are done; run `measure` for two at least")
    made = tables(found, options)
    for name, table in made.items():
        print(f"\n{name}\n\n{table}")
    if options.write:
        write_into(DOCS / "scaling.md", made)
        draw(found, DOCS / "img" / "scaling.svg")


def write_into(doc: Path, made: dict[str, str]) -> None:
    """Replace what stands between the marks of each table; a doc without one of the marks is refused."""
    text = doc.read_text()
    for name, table in made.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marks.search(text):
            sys.exit(f"{doc}: no marks <!-- {name} --> and <!-- /{name} -->")
        text = marks.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)
    doc.write_text(text)
