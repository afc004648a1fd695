import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.models.discovery import PACKAGED_BACKBONE, find_checkpoint, is_late_interaction, packaged_backbone
from raycol.models.encoder import encoder_fingerprint, load_encoder, load_index_encoder, orthogonal_map, probe_encoder

TEXTS = ["rain, wind and a storm!", "violin"]


def encode(encoder, texts=TEXTS) -> list[np.ndarray]:
    return encoder.encode_document(texts, convert_to_numpy=True)


def test_a_bare_backbone_becomes_a_colbert(tiny_backbone: Path) -> None:
    encoder = load_encoder(tiny_backbone, device="cpu")
    assert encoder.get_embedding_dimension() == 128
    assert encoder.prompts == {"query": "[Q] ", "document": "[D] "}
    assert encoder.tokenizer.tokenize("[Q] rain [D]") == ["[Q]", "rain", "[D]"]
    query = encoder.encode_query("rain", convert_to_numpy=True)
    assert query.shape == (4, 128)  # [CLS] [Q] rain [SEP]: not expanded
    assert np.allclose(np.linalg.norm(query, axis=1), 1, atol=1e-5)
    # [CLS], [D], five words and [SEP]; the comma and the exclamation mark are on the skiplist.
    assert [len(tokens) for tokens in encode(encoder, ["rain, wind!", "rain wind"])] == [5, 5]


def test_every_setting_of_a_new_encoder_takes_effect(tiny_backbone: Path) -> None:
    encoder = load_encoder(
        tiny_backbone,
        device="cpu",
        embedding_size=24,
        query_length=6,
        document_length=5,
        query_prefix="[A] ",
        document_prefix="",
        skiplist=["rain"],
    )
    assert encoder.encode_query("rain wind").shape == (5, 24)  # [CLS] [A] rain wind [SEP]
    assert encoder.encode_query("rain wind storm fog").shape == (6, 24)
    assert [len(tokens) for tokens in encode(encoder, ["wind", "rain wind", "wind " * 9])] == [3, 3, 5]
    expanding = load_encoder(
        tiny_backbone, device="cpu", query_length=9, query_expansion=True, attend_to_expansion=True
    )
    assert expanding[0].query_expansion["attend"] is True
    assert expanding.encode_query("rain").shape == (9, 128)


def test_a_saved_encoder_encodes_as_before(tiny_backbone: Path, tmp_path: Path) -> None:
    encoder = load_encoder(tiny_backbone, device="cpu", embedding_size=16, seed=3)
    encoder.save_pretrained(str(tmp_path / "m"))
    again = load_encoder(tmp_path / "m", device="cpu")
    assert encoder_fingerprint(again) == encoder_fingerprint(encoder)
    for before, after in zip(encode(encoder), encode(again), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.slow
def test_the_fingerprint_tells_encoders_apart(tiny_backbone: Path) -> None:
    def fingerprint(**settings) -> str:
        return encoder_fingerprint(load_encoder(tiny_backbone, device="cpu", **settings))

    assert fingerprint() == fingerprint()
    others = [
        fingerprint(seed=1),
        fingerprint(document_length=20),
        fingerprint(query_length=20),
        fingerprint(query_expansion=True),
        fingerprint(skiplist=[]),
        fingerprint(query_prefix=""),
        fingerprint(dtype="bfloat16"),
    ]
    assert len({fingerprint(), *others}) == 1 + len(others)


@pytest.mark.slow
def test_a_new_encoder_does_not_depend_on_threads(tiny_backbone: Path) -> None:
    """Single-threaded actors build an index that multi-threaded processes search, with the same fingerprint."""
    import torch

    threads = torch.get_num_threads()
    fingerprints = set()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for source in (tiny_backbone, PACKAGED_BACKBONE):
                fingerprints.add((str(source), encoder_fingerprint(load_encoder(source, device="cpu"))))
    finally:
        torch.set_num_threads(threads)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(("n_out", "n_in"), [(16, 32), (32, 16), (128, 384)])
def test_the_projection_is_orthogonal(n_out: int, n_in: int) -> None:
    weight = orthogonal_map(n_out, n_in, seed=1)
    small = weight @ weight.T if n_out <= n_in else weight.T @ weight
    assert weight.shape == (n_out, n_in)
    assert np.allclose(small, np.eye(min(n_out, n_in)), atol=2e-3)
    assert not np.array_equal(weight, orthogonal_map(n_out, n_in, seed=2))


def test_pylate_settings_are_kept(tiny_backbone: Path, tmp_path: Path) -> None:
    """A checkpoint in PyLate's format: transformer and Dense, everything else in the configuration."""
    encoder = load_encoder(tiny_backbone, device="cpu", embedding_size=16)
    folder = tmp_path / "pylate"
    encoder.save_pretrained(str(folder))
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[0]["type"] = "sentence_transformers.models.Transformer"
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 19, "do_lower_case": False}))
    dense = json.loads((folder / "1_Dense" / "config.json").read_text())
    options = {name: dense[name] for name in ("in_features", "out_features", "bias", "activation_function")}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(options))
    settings = {
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        "similarity_fn_name": "MaxSim",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert is_late_interaction(str(folder))
    opened = load_encoder(folder, device="cpu")
    assert opened.get_embedding_dimension() == 16
    assert opened.encode_query("rain").shape == (12, 16)
    for before, after in zip(encode(encoder), encode(opened), strict=True):
        assert np.allclose(before, after, atol=1e-6)
    with pytest.raises(InputError, match="16 dimensions, fixed by its weights; embedding_size 32"):
        load_encoder(folder, embedding_size=32)


def add_weights(backbone: Path, folder: Path, added: dict, prefix: str = "") -> Path:
    """Copy a backbone, prefix the names of its weights and add some weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(backbone, folder)
    weights = {f"{prefix}{name}": tensor for name, tensor in load_file(backbone / "model.safetensors").items()}
    save_file({**weights, **added}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("architecture", ["HF_ColBERT", "ColBERT", "BertModel"])
def test_stanford_settings_are_kept(tiny_backbone: Path, tmp_path: Path, architecture: str) -> None:
    """A checkpoint in the format of Stanford's ColBERT: a single file of weights, including the projection."""
    import torch

    projection = torch.randn(16, 32)
    folder = add_weights(tiny_backbone, tmp_path / "stanford", {"linear.weight": projection}, "bert.")
    config = json.loads((tiny_backbone / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 10, "doc_maxlen": 20}))
    assert is_late_interaction(str(folder))
    encoder = load_encoder(folder, device="cpu")
    assert encoder.encode_query("rain").shape == (10, 16)
    assert encoder[0].document_length == 20
    assert np.allclose(encoder[1].linear.weight.detach().numpy(), projection.numpy())
    backbone = load_encoder(tiny_backbone, device="cpu")[0].auto_model.state_dict()
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(encoder[0].auto_model.state_dict()[word][:40], backbone[word][:40])
    assert encoder_fingerprint(load_encoder(folder, device="cpu")) == encoder_fingerprint(encoder)
    (folder / "artifact.metadata").unlink()
    by_weights = load_encoder(folder, device="cpu")
    assert np.allclose(by_weights[1].linear.weight.detach().numpy(), projection.numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_stanford_weights_in_pytorch_format(tiny_backbone: Path, tmp_path: Path, zipped: bool) -> None:
    import torch
    from safetensors.torch import load_file

    folder = add_weights(tiny_backbone, tmp_path / "m", {"linear.weight": torch.randn(16, 32)}, "bert.")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    encoder = load_encoder(folder, device="cpu")
    assert torch.equal(encoder[1].linear.weight, weights["linear.weight"])


def test_stanford_settings_without_a_projection_are_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_backbone, tmp_path / "m")
    (tmp_path / "m" / "artifact.metadata").write_text("{}")
    with pytest.raises(InputError, match=r"has the artifact\.metadata of a ColBERT but no linear\.weight"):
        load_encoder(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("custom_text_proj.weight", "has custom_text_proj, which"),
        ("bert.colbert_linear.weight", r"has bert\.colbert_linear, which"),
        ("classifier.weight", "has classifier, which"),
        ("bert.encoder.layer.0.attention.self.query.lora_A.default.weight", "has an adapter, which"),
    ],
)
def test_a_checkpoint_with_a_trained_head_is_refused(
    tiny_backbone: Path, tmp_path: Path, name: str, message: str
) -> None:
    import torch

    folder = add_weights(tiny_backbone, tmp_path / "m", {name: torch.ones(16, 32)}, "bert.")
    with pytest.raises(InputError, match=message):
        load_encoder(folder, device="cpu")
    assert load_encoder(folder, device="cpu", new_projection=True).get_embedding_dimension() == 128


def test_settings_without_effect_on_a_model_are_refused(tiny_backbone: Path, tiny_colbert: Path) -> None:
    with pytest.raises(
        InputError, match="whose projection is kept: new_projection has no effect; leave new_projection"
    ):
        load_encoder(tiny_colbert, device="cpu", new_projection=True)
    with pytest.raises(InputError, match="attend_to_expansion has no effect: the model's queries are not expanded"):
        load_encoder(tiny_backbone, device="cpu", attend_to_expansion=True)
    attends = load_encoder(tiny_colbert, device="cpu", attend_to_expansion=True)
    assert attends[0].query_expansion["attend"]


def test_pretraining_heads_are_ignored(
    tiny_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    names = ("cls.predictions.bias", "cls.seq_relationship.weight", "bert.pooler.dense.weight", "bert.embeddings.more")
    folder = add_weights(tiny_backbone, tmp_path / "m", {name: torch.ones(4) for name in names}, "bert.")
    assert load_encoder(folder, device="cpu", embedding_size=24).get_embedding_dimension() == 24
    assert "new random projection of 24 dimensions: train it, or pass a ColBERT" in capsys.readouterr().err


def test_a_checkpoint_with_a_projection_in_a_separate_file_is_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_backbone, folder)
    (folder / "colbert_linear.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"has colbert_linear\.pt, which"):
        load_encoder(folder, device="cpu")
    (folder / "colbert_linear.pt").unlink()
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match=r"has 2_Dense \(Dense\), which"):
        load_encoder(folder, device="cpu")
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    assert load_encoder(folder, device="cpu")


def test_adapters_and_image_models_are_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(InputError, match="an adapter of org/base, not a full model; merge it"):
        load_encoder(folder)
    shutil.copytree(tiny_backbone, tmp_path / "m")
    config = json.loads((tiny_backbone / "config.json").read_text())
    for name in ("ColPali", "ColQwen2_5", "ColPaliForRetrieval"):
        (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        with pytest.raises(InputError, match=f"is a {name}, which encodes images"):
            load_encoder(tmp_path / "m")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "missing"), "./missing", "missing"):
        with pytest.raises(InputError, match="missing': no such folder"):
            find_checkpoint(name)
    with pytest.raises(InputError, match=r"the folder has no config\.json or modules\.json"):
        find_checkpoint(tmp_path)
    for content, message in (("{}", "cannot be opened"), ("[1]", "holds a list"), ("{", "cannot be read")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=message):
            load_encoder(tmp_path)


def test_damaged_weights_are_named(tiny_colbert: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_colbert, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="broken' cannot be opened"):
        load_encoder(broken)
    with pytest.raises(InputError, match="cannot be opened"):
        load_encoder(tiny_colbert, device="nonsense")


def test_load_index_encoder_refuses_another_model(tiny_backbone: Path, tiny_colbert: Path) -> None:
    from raycol.index.format.manifest import ModelInfo

    fingerprint = encoder_fingerprint(load_encoder(tiny_colbert, device="cpu"))
    info = ModelInfo(name=str(tiny_colbert), fingerprint=fingerprint)
    assert encoder_fingerprint(load_index_encoder(info, None, device="cpu")) == fingerprint
    with pytest.raises(InputError, match="not the one the index was built with"):
        load_index_encoder(info, str(tiny_backbone), device="cpu")
    with pytest.raises(InputError, match="pass `model=`"):
        load_index_encoder(None, None, device="cpu")


@pytest.mark.slow
def test_the_packaged_weights_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_checkpoint(PACKAGED_BACKBONE) == str(packaged_backbone())
    monkeypatch.setattr("raycol.models.discovery.PACKAGED_BACKBONE_SHA256", "0" * 64)
    with pytest.raises(InputError, match="SHA-256"):
        packaged_backbone()


@pytest.fixture
def part_of_cranfield(beside: tuple[Path, Path], tmp_path: Path) -> Path:
    """A BEIR folder with Cranfield's first 20 queries, their judged passages and 80 others."""
    source, folder = beside[0] / "cranfield", tmp_path / "cranfield"
    header, *judgements = (source / "qrels" / "test.tsv").read_text().splitlines()
    queries = list(dict.fromkeys(line.split("\t")[0] for line in judgements))[:20]
    selected = [line for line in judgements if line.split("\t")[0] in queries]
    judged = {line.split("\t")[1] for line in selected}
    passages = (source / "corpus.jsonl").read_text().splitlines()
    others = [line for line in passages if json.loads(line)["_id"] not in judged][:80]
    (folder / "qrels").mkdir(parents=True)
    (folder / "qrels" / "test.tsv").write_text("\n".join([header, *selected]))
    (folder / "queries.jsonl").write_text((source / "queries.jsonl").read_text())
    (folder / "corpus.jsonl").write_text(
        "\n".join([*(line for line in passages if json.loads(line)["_id"] in judged), *others])
    )
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_a_real_colbert_on_a_part_of_cranfield(part_of_cranfield: Path, beside: tuple[Path, Path]) -> None:
    from raycol.evaluation import EvaluateConfig, evaluate

    done = evaluate(
        EvaluateConfig(
            data=part_of_cranfield,
            model=str(beside[1] / "answerai-colbert-small-v1"),
            on_error="skip",
            device="cpu",
        )
    )
    assert done.results[0].queries == 20
    assert done.metrics["nDCG@10"] >= 0.40


def make_gpt2(folder: Path, **special: str) -> Path:
    """A two-layer GPT-2 whose tokenizer has the given special tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["rain and wind"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)).save_pretrained(folder)
    return folder


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(tmp_path: Path) -> None:
    encoder = load_encoder(make_gpt2(tmp_path / "gpt2", eos_token="<end>"), device="cpu")
    probe_encoder(encoder, "gpt2")
    alone, beside = encode(encoder, ["rain"])[0], encode(encoder, ["rain", "rain and wind " * 40])
    assert np.allclose(alone, beside[0], atol=1e-5)
    assert len(beside[1]) == 64
    with pytest.raises(InputError, match="its tokenizer has no padding token"):
        load_encoder(make_gpt2(tmp_path / "bare"), device="cpu")


def test_documents_are_truncated_to_the_models_positions(tiny_backbone: Path, tmp_path: Path) -> None:
    """RoBERTa numbers positions after the padding index, so it takes fewer tokens than configured."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=42,
        pad_token_id=tokenizer.pad_token_id,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    encoder = load_encoder(tmp_path / "m", device="cpu")
    probe_encoder(encoder, "m")
    assert len(encode(encoder, ["rain " * 100])[0]) == 41
    with pytest.raises(InputError, match="document_length is 42, but the model has only 41 positions"):
        load_encoder(tmp_path / "m", device="cpu", document_length=42)


@pytest.mark.slow
def test_a_model_that_cannot_encode_raises_before_any_work(
    tiny_colbert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    from raycol.indexing import IndexConfig
    from tests.conftest import make_passages, write_jsonl
    from tests.indexing.in_process import build_index

    encoder = load_encoder(tiny_colbert, device="cpu")
    with torch.no_grad():
        for weight in encoder[0].auto_model.encoder.parameters():
            weight *= 10  # so that tokens attend to each other as in trained models
    encoder.save_pretrained(str(tmp_path / "m"))
    backbone = type(encoder[0].auto_model)
    forward = backbone.forward
    probe_encoder(encoder, "m")

    def without_mask(self, input_ids=None, token_type_ids=None, attention_mask=None, **others):
        return forward(self, input_ids=input_ids, token_type_ids=token_type_ids, **others)

    def for_short_texts(self, input_ids=None, **others):
        if input_ids.shape[1] > 30:
            raise IndexError("index out of range in self")
        return forward(self, input_ids=input_ids, **others)

    def with_nan(self, **others):
        output = forward(self, **others)
        output.last_hidden_state[:] = float("nan")
        return output

    def without_argument(self, input_ids, token_type_ids=None):
        return forward(self, input_ids=input_ids)

    for broken, message in (
        (without_mask, "does not mask padding"),
        (for_short_texts, r"fails to encode a document of 32 tokens .* index out of range"),
        (with_nan, "embeddings are not finite"),
        (without_argument, "takes no attention mask"),
    ):
        monkeypatch.setattr(backbone, "forward", broken)
        with pytest.raises(InputError, match=message):
            probe_encoder(encoder, "m")
        corpus = write_jsonl(tmp_path / "corpus.jsonl", make_passages(3))
        with pytest.raises(InputError, match=message):
            build_index(IndexConfig(corpus=corpus, model=str(tmp_path / "m"), out=tmp_path / "i"))
        assert not (tmp_path / "i").exists()
    monkeypatch.undo()
    probe_encoder(encoder, "m")
