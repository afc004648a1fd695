import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from transformers import AutoModel, AutoTokenizer

from raycol.models.encoder import encoder_fingerprint, load_encoder
from raycol.models.saving import save_encoder
from tests.conftest import tries_all

TEXTS = ["rain, wind and a storm!", "violin", "", "Captain: (sail) [D] anchor; " * 8, "ÄÖÜ 漢字 [UNK]"]


def encode(encoder: MultiVectorEncoder) -> list[np.ndarray]:
    return [
        *encoder.encode_query(TEXTS, convert_to_numpy=True),
        *encoder.encode_document(TEXTS, convert_to_numpy=True),
    ]


def as_pylate(folder: Path) -> list[np.ndarray]:
    """Reimplementation of `pylate.models.ColBERT(folder).encode` for queries and documents, one text at a time.

    `make bench-pylate` compares with PyLate itself.
    """
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    if tokenizer.mask_token_id is not None:
        tokenizer.pad_token_id = tokenizer.mask_token_id
    module_paths = [module["path"] for module in json.loads((folder / "modules.json").read_text())[1:]]
    skiplist = [tokenizer.convert_tokens_to_ids(word) for word in config["skiplist_words"]]
    encoded = []
    for task in ("query", "document"):
        prefix, length = config[f"{task}_prefix"], config[f"{task}_length"]
        expands = task == "query" and config["do_query_expansion"]
        for text in TEXTS:
            tokens = tokenizer(
                text.strip(),
                padding="max_length" if expands else False,
                truncation=True,
                max_length=length - bool(prefix),
                return_tensors="pt",
            )
            tokens.pop("token_type_ids", None)
            if prefix:
                for name, value in (("input_ids", tokenizer.convert_tokens_to_ids(prefix)), ("attention_mask", 1)):
                    row = tokens[name]
                    tokens[name] = torch.cat([row[:, :1], torch.full((1, 1), value), row[:, 1:]], dim=1)
            if expands and config["attend_to_expansion_tokens"]:
                tokens["attention_mask"].fill_(1)
            with torch.no_grad():
                embeddings = model(**tokens).last_hidden_state
                for path in module_paths:
                    embeddings = load_dense(folder / path)({"token_embeddings": embeddings})["token_embeddings"]
            ids = tokens["input_ids"][0]
            scored = torch.ones_like(ids).bool() if expands else tokens["attention_mask"][0].bool()
            if task == "document":
                scored &= ~torch.isin(ids, torch.tensor(skiplist, dtype=torch.long))
            encoded.append(torch.nn.functional.normalize(embeddings[0][scored], dim=1).numpy())
    return encoded


def load_dense(folder: Path) -> Dense:
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    # PyLate's Dense raises for any other argument.
    assert config.keys() <= {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    config["activation_function"] = getattr(torch.nn, config["activation_function"].rpartition(".")[2])()
    dense = Dense(**config, module_input_name="token_embeddings")
    dense.load_state_dict(load_file(folder / "model.safetensors"))
    return dense


def check(encoder: MultiVectorEncoder, folder: Path) -> None:
    """Save in PyLate's format and check that every library's copy encodes as the encoder does."""
    assert save_encoder(encoder, folder) is None
    assert not (folder / "README.md").exists()
    expected = encode(encoder)
    again = load_encoder(folder, device="cpu")
    assert encoder_fingerprint(again) == encoder_fingerprint(encoder)
    plain = MultiVectorEncoder(str(folder), device="cpu")
    assert plain.prompts == encoder.prompts
    assert plain.similarity_fn_name == encoder.similarity_fn_name
    for opened in (again, plain):
        for before, after in zip(expected, encode(opened), strict=True):
            assert np.array_equal(before, after)
    for before, after in zip(expected, as_pylate(folder), strict=True):
        np.testing.assert_allclose(before, after, atol=2e-6)


@pytest.mark.slow
@settings(
    max_examples=settings.default.max_examples if tries_all() else 10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    query_prefix=st.sampled_from([None, "", "[A]", "[Q]  "]),
    document_prefix=st.sampled_from([None, "", "[sail] "]),
    query_length=st.integers(4, 12),
    document_length=st.integers(4, 40),
    expansion=st.sampled_from([(False, None), (True, False), (True, True)]),
    skiplist=st.sampled_from([None, [], ["rain", "!", "[UNK]"]]),
)
def test_all_settings_round_trip(
    tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory, expansion: tuple[bool, bool | None], **chosen
) -> None:
    chosen |= dict(zip(("query_expansion", "attend_to_expansion"), expansion, strict=True))
    check(load_encoder(tiny_backbone, device="cpu", embedding_size=16, **chosen), tmp_path_factory.mktemp("m") / "m")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.slow
def test_several_projections(tiny_backbone: Path, tmp_path: Path, residual: bool) -> None:
    made = load_encoder(tiny_backbone, device="cpu", query_length=8, document_length=32)
    torch.manual_seed(0)
    projections = [
        Dense(32, 48, activation_function=torch.nn.GELU(), module_input_name="token_embeddings"),
        Dense(
            48, 48, bias=False, activation_function=None, module_input_name="token_embeddings", use_residual=residual
        ),
        Dense(48, 16, activation_function=None, module_input_name="token_embeddings", use_residual=residual),
    ]
    modules = [made[0], *projections, MultiVectorMask(["rain"]), Normalize("token_embeddings")]
    encoder = MultiVectorEncoder(
        modules=modules, prompts={**made.prompts, "other": "x: "}, device="cpu", similarity_fn_name="meanmaxsim"
    )
    check(encoder, tmp_path / "m")
    check(load_encoder(tmp_path / "m", device="cpu"), tmp_path / "again")
    assert (tmp_path / "m" / "modules.json").read_bytes() == (tmp_path / "again" / "modules.json").read_bytes()


@pytest.fixture(scope="module")
def byte_level_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ModernBERT with a byte-level tokenizer, whose tokens include white space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["rain wind storm violin sail anchor"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    folder = tmp_path_factory.mktemp("byte-level")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(folder)
    config = ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size() + 20,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    ModernBertModel(config).save_pretrained(folder)
    return folder


def test_byte_level_tokens(byte_level_backbone: Path, tmp_path: Path) -> None:
    encoder = load_encoder(byte_level_backbone, device="cpu", embedding_size=16, query_length=16, document_length=40)
    start, *rain = encoder.tokenizer("rain")["input_ids"]
    marker = encoder.tokenizer.convert_tokens_to_ids("[Q]")
    assert encoder.tokenizer("[Q] rain")["input_ids"] == [start, marker, *rain]
    check(encoder, tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda encoder: encoder.append(HierarchicalTokenPooling(2.0)), "its modules are Transformer, Dense"),
        (lambda encoder: encoder[0].__setattr__("document_length", None), "document_length is None; PyLate has 180"),
        (
            lambda encoder: encoder[0].__setattr__("query_expansion", {"strategy": "min", "length": 8}),
            "query_expansion is {'strategy': 'min'",
        ),
        (lambda encoder: encoder[2].__setattr__("keep_only_token_ids", [7]), "keep_only_token_ids is"),
        (lambda encoder: encoder[2].__setattr__("skiplist_tasks", ["query", "document"]), "skiplist_tasks is"),
        (
            lambda encoder: encoder[2].__setattr__("skiplist_words", ["!", "rain wind"]),
            "lacks the skiplist words ['rain wind']",
        ),
        (
            lambda encoder: encoder.prompts.__setitem__("query", "question: "),
            "query prefix 'question: ' is not a single",
        ),
        (lambda encoder: encoder.__setattr__("default_prompt_name", "query"), "a default prompt, 'query'"),
    ],
    ids=["pooling", "length", "min", "allowlist", "skiplist of queries", "unknown word", "text", "default"],
)
def test_encoders_that_pylate_cannot_represent_are_saved_natively(
    tiny_colbert: Path, tmp_path: Path, change, reason
) -> None:
    encoder = load_encoder(tiny_colbert, device="cpu")
    change(encoder)
    assert reason in (save_encoder(encoder, tmp_path / "m") or "")
    again = load_encoder(tmp_path / "m", device="cpu")
    assert encoder_fingerprint(again) == encoder_fingerprint(encoder)


def test_an_encoder_without_projection_is_saved_natively(tiny_backbone: Path, tmp_path: Path) -> None:
    made = load_encoder(tiny_backbone, device="cpu")
    encoder = MultiVectorEncoder(modules=[made[0], made[2], made[3]], prompts=made.prompts, device="cpu")
    assert "its modules are Transformer, MultiVectorMask, Normalize" in (save_encoder(encoder, tmp_path / "m") or "")
    assert encoder_fingerprint(load_encoder(tmp_path / "m", device="cpu")) == encoder_fingerprint(encoder)


def test_a_new_skiplist_has_only_words_of_the_vocabulary(tiny_backbone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    shutil.copytree(tiny_backbone, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["other"] = vocabulary.pop("!")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_encoder(folder, device="cpu", embedding_size=16, query_length=8, document_length=32)
    assert set(encoder[2].skiplist_words) == set(string.punctuation) - {"!"}
    check(encoder, tmp_path / "m")
