"""Language models as teachers: tiny random ones of the same classes, compared with the code of their model cards."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.mining import ScoreConfig
from raycol.mining.cross_encoder import (
    count_truncated,
    cross_encoder_fingerprint,
    load_cross_encoder,
    probe_cross_encoder,
    score_pairs,
)
from raycol.mining.rerankers import find_prompt
from tests.conftest import TOPICS, write_jsonl
from tests.mining.in_process import score_examples
from tests.mining.test_mine import rows_of

PAIRS = [
    ("what is rain", "rain falls from clouds"),
    ("harbour", "ships lie in the harbour, and the crane unloads them " * 4),
    ("a longer question about the orchard?", ""),
]


def save_language_model(folder: Path, kind: str, answers: Sequence[str] = ("yes", "no", "Yes")) -> Path:
    """Save a Qwen3 or Gemma of two layers with random weights, and a byte-level tokenizer that knows the answers."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, GemmaConfig, PreTrainedTokenizerFast, Qwen3Config

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TOPICS.values(), *answers * 50], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", extra_special_tokens=special[2:]
    ).save_pretrained(folder)
    sizes = {
        "vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config((Qwen3Config if kind == "qwen3" else GemmaConfig)(**sizes)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm") / "Qwen3-Reranker-tiny", "qwen3")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm") / "bge-reranker-v2-gemma", "gemma")


@cache
def language_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(folder: Path, ids: Sequence[int]) -> np.ndarray:
    """Logits of the next token."""
    import torch

    with torch.inference_mode():
        return language_model(folder)(torch.tensor([ids])).logits[0, -1].numpy()


def qwen3_score(folder: Path, query: str, document: str, max_length: int) -> float:
    """As in the model card of Qwen3-Reranker: prefix and suffix are kept, what is between them is truncated."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prefix = tokenizer.encode(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
        add_special_tokens=False,
    )
    suffix = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", add_special_tokens=False)
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    text = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    ids = tokenizer.encode(text, add_special_tokens=False)[: max_length - len(prefix) - len(suffix)]
    scores = logits(folder, prefix + ids + suffix)
    yes, no = (tokenizer.convert_tokens_to_ids(answer) for answer in ("yes", "no"))
    return float(scores[yes] - scores[no])


def gemma_score(folder: Path, query: str, document: str, max_length: int) -> float:
    """As in the model card of bge-reranker-v2-gemma: the passage is truncated, the prompt follows it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    prompt = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'."
    )
    end = encode("\n") + encode(prompt)
    ids = [tokenizer.bos_token_id, *encode(f"A: {query}"), *encode("\n"), *encode(f"B: {document}")]
    return float(logits(folder, ids[: max_length - len(end)] + end)[encode("Yes")[0]])


@pytest.mark.parametrize(("kind", "reference"), [("qwen3", qwen3_score), ("gemma", gemma_score)])
@pytest.mark.slow
def test_scores_are_those_of_the_model_card(kind: str, reference: object, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    expected = [reference(folder, *pair, 10_000) for pair in PAIRS]
    model = load_cross_encoder(str(folder), device="cpu")
    probe_cross_encoder(model, kind)
    assert score_pairs(model, PAIRS, 3) == pytest.approx(expected, abs=1e-4)
    assert score_pairs(model, PAIRS, 1) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0.1
    assert count_truncated(model, PAIRS) == 0
    shortest = min(len(model.tokenizer(f"{query}{document}")["input_ids"]) for query, document in PAIRS)
    limit = int(model.preprocess([PAIRS[0]])["attention_mask"].sum()) + shortest
    short = load_cross_encoder(str(folder), device="cpu", max_length=limit)
    assert count_truncated(short, PAIRS) == 1
    assert score_pairs(short, PAIRS, 3) == pytest.approx([reference(folder, *pair, limit) for pair in PAIRS], abs=1e-4)
    assert score_pairs(short, PAIRS, 3)[1] != pytest.approx(expected[1], abs=1e-4)
    assert cross_encoder_fingerprint(short) != cross_encoder_fingerprint(model)


def test_a_language_model_without_a_known_prompt_is_refused(qwen3: Path, gemma: Path, tmp_path: Path) -> None:
    for folder, name in ((qwen3, "some-llm"), (qwen3, "bge-reranker-v2-gemma"), (gemma, "Qwen3-Reranker-tiny")):
        other = tmp_path / "qwen3-reranker" / name
        shutil.copytree(folder, other)
        with pytest.raises(InputError, match=r"is a language model \(\w+ForCausalLM\) whose prompt is not known"):
            load_cross_encoder(str(other), device="cpu")


def test_the_name_is_that_of_the_folder_the_cache_or_the_original(qwen3: Path, tmp_path: Path) -> None:
    config = json.loads((qwen3 / "config.json").read_text())
    snapshot = tmp_path / "models--Qwen--Qwen3-Reranker-0.6B" / "snapshots" / "abc"
    shutil.copytree(qwen3, snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    assert find_prompt(str(tmp_path / "link"), str(snapshot), config).yes == "yes"
    assert find_prompt("Qwen/Qwen3-Reranker-4B", "Qwen/Qwen3-Reranker-4B", config).yes == "yes"
    assert find_prompt("mine", "mine", {**config, "_name_or_path": "Qwen/Qwen3-Reranker-4B"}).yes == "yes"


@pytest.mark.slow
def test_a_model_that_sentence_transformers_has_saved_brings_its_prompt(qwen3: Path, tmp_path: Path) -> None:
    model = load_cross_encoder(str(qwen3), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    saved = load_cross_encoder(str(tmp_path / "saved"), device="cpu")
    assert score_pairs(saved, PAIRS, 3).tolist() == score_pairs(model, PAIRS, 3).tolist()
    assert cross_encoder_fingerprint(saved) == cross_encoder_fingerprint(model)
    template = tmp_path / "saved/chat_template.jinja"
    assert template.is_file()
    template.write_text("{{ messages[0].content }}")
    with pytest.raises(InputError, match=r"fails to score .*chat template"):
        probe_cross_encoder(load_cross_encoder(str(tmp_path / "saved"), device="cpu"), "saved")


def test_an_answer_of_several_tokens_is_refused(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "Qwen3-Reranker-0.6B", "qwen3", answers=("rain",))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    with pytest.raises(InputError, match=r"'yes' is \d tokens of its tokenizer; expected a single one"):
        load_cross_encoder(str(folder), device="cpu")


@pytest.mark.slow
def test_a_language_model_and_a_cross_encoder_are_teachers(
    qwen3: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    records = [{"query": query, "positive": "rain", "negatives": [document, "wind"]} for query, document in PAIRS[:2]]
    data = write_jsonl(tmp_path / "examples.jsonl", records)
    teachers = (str(qwen3), str(tiny_cross_encoder))
    report = score_examples(ScoreConfig(data=data, teacher=teachers, out=tmp_path / "o", n_ways=3))
    assert (report.rows, report.pairs) == (2, 6)
    for row in rows_of(tmp_path / "o"):
        pairs = [(row["query"], document) for document in row["documents"]]
        for name, scores in zip(teachers, row["teacher_scores"], strict=True):
            assert scores == pytest.approx(score_pairs(load_cross_encoder(name, device="cpu"), pairs, 3), abs=1e-4)
        assert np.mean(row["scores"]) == pytest.approx(0, abs=1e-6)
