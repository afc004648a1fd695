"""End to end in an object store: corpus, index, append, search through the cache, training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import IndexCorruptError
from raycol.index import Index
from raycol.index.write.verify import verify_index
from raycol.models.encoder import load_encoder
from raycol.models.remote import publish_model
from raycol.storage import open_store
from tests.conftest import PROJECT, make_passages
from tests.storage.server import CREDENTIALS, Server, listed, put
from tests.training.material import write_examples

# The endpoint is in the options of the URIs, which must reach the workers; credentials are only in the environment.
WORK = """
import json, sys
from contextlib import nullcontext
from raycol.distributed.executor import IN_PROCESS, ON_RAY
from raycol.indexing import append_corpus, build_index
from raycol.indexing.config import AppendConfig, IndexConfig
from raycol.distributed.session import ray_session
from raycol.training import TrainConfig, train

prefix, options, model, out, where = sys.argv[1:]
executor = ON_RAY if where == "on Ray" else IN_PROCESS
index = f"{prefix}/index?{options}"
how = {"num_workers": 1, "docs_per_partition": 20, "model": model}
with nullcontext() if executor.in_process else ray_session(CPU=4):
    built = build_index(
        IndexConfig(corpus=f"{prefix}/corpus?{options}", out=index, store_text=True, **how), executor=executor
    )
    added = append_corpus(AppendConfig(corpus=f"{prefix}/more.jsonl?{options}", index=index, **how), executor=executor)
    trained = train(TrainConfig(
        model=model, data=f"{prefix}/pairs.jsonl?{options}", out=out, storage=f"{prefix}/runs?{options}",
        num_workers=1 if executor.in_process else 2, batch_size=8, mini_batch_size=4, max_steps=3, save_every=1,
        held_out=4,
    ), executor=executor)
print(json.dumps([built.documents, built.parts, added.version, added.documents, trained.steps]))
"""


def lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in process", pytest.param("on Ray", marks=pytest.mark.long)])
def test_from_a_corpus_to_search_results_in_a_store(
    s3: str, s3_server: Server, tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    passages = make_passages(70)
    put(f"{s3}/corpus/a.jsonl", lines(passages[:30]))
    put(f"{s3}/corpus/b.jsonl", lines(passages[30:60]))
    put(f"{s3}/more.jsonl", lines(passages[60:]))
    put(f"{s3}/pairs.jsonl", write_examples(tmp_path / "pairs.jsonl").read_bytes())
    publish_model(tiny_colbert, f"{s3}/start")
    options = f"endpoint_override={s3_server.address}&scheme=http&region=us-east-1"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", WORK, s3, options, f"{s3}/start?{options}", f"{s3}/model?{options}", where],
        env=environment | CREDENTIALS, cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [60, 3, 2, 10, 3]

    # The training's state and temporary files of the build are deleted; the model stays.
    names = listed(s3)
    assert not [name for name in names if name.startswith("runs/")]
    assert not [name for name in names if "unfinished" in name or name.startswith("index/builds")]
    model = load_encoder(f"{s3}/model", device="cpu")
    assert model.get_embedding_dimension() == 16
    for name in ("index/manifests/00000002.json", "index/build-report.json"):
        content = open_store(s3).read(name, 1 << 20).decode()
        assert not [secret for secret in CREDENTIALS.values() if "key" in secret and secret in content]
    for secret in (CREDENTIALS["AWS_SECRET_ACCESS_KEY"], CREDENTIALS["AWS_ACCESS_KEY_ID"]):
        assert secret not in done.stdout + done.stderr

    # Another process than the writer finds every document through its own cache.
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "another cache"))
    index = Index.open(f"{s3}/index")
    assert len(index) == 70
    encoder = load_encoder(tiny_colbert, device="cpu")
    queries = encoder.encode_query([passage["text"] for passage in passages[::7]], convert_to_numpy=True)
    results = index.search([np.asarray(query, np.float32) for query in queries], k=70)
    assert {hit.id for hits in results for hit in hits} == {passage["_id"] for passage in passages}
    del s3_server.requests[:]
    assert Index.open(f"{s3}/index").search(list(queries), k=70) == results
    assert not [path for method, path in s3_server.requests if path.endswith((".npy", ".bin"))]

    # A damaged object is detected by a reader without a copy, and by verify.
    name = next(name for name in names if name.startswith("index/partitions/") and name.endswith("partition.bin"))
    whole = open_store(s3).read(name, 1 << 30)
    put(f"{s3}/{name}", whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "a third cache"))
    with pytest.raises(IndexCorruptError, match=rf"{s3}/{name}: .* the manifest promises .*; restore it or rebuild"):
        Index.open(f"{s3}/index").search(list(queries))
    assert verify_index(open_store(f"{s3}/index")) == [f"{s3}/{name}: the checksum differs from the manifest's"]
