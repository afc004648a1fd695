"""Saving encoders in a format that raycol, sentence-transformers and PyLate open.

All three read PyLate's format: a transformer, linear layers and ColBERT's settings. Encoders that it cannot represent
are saved in sentence-transformers' own format, which PyLate does not read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import PreTrainedModel

from raycol.models.encoder import quiet_transformers
from raycol.models.settings import DOCUMENT_LENGTH, QUERY_LENGTH, unknown_words

# Settings of the modules that sentence-transformers creates for a checkpoint in PyLate's format.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_TOKEN_EMBEDDINGS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}

# Texts to compare PyLate's and sentence-transformers' handling of prefixes on.
_PROBES = ("", "a", "Rain, wind and 12 storms!", "(x) naïve Straße", "東京の雨")


def save_encoder(encoder: MultiVectorEncoder, folder: str | Path) -> str | None:
    """Write an encoder's weights, tokenizer and settings to a folder, created if missing.

    raycol and sentence-transformers reopen an encoder with the same fingerprint. PyLate encodes identically, unless
    its format cannot represent the encoder, which is then saved in sentence-transformers' format. These are encoders
    with modules other than transformer, projection, mask and normalisation (token pooling, no projection), a prefix of
    several tokens, unset lengths, query expansion other than to a fixed length with mask tokens, a skiplist for
    queries or with words outside the vocabulary, or a token allowlist.

    Returns:
        None if PyLate can open the folder, otherwise the reason why it cannot.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    incompatibility = _pylate_incompatibility(encoder)
    with quiet_transformers():
        if incompatibility:
            encoder.save_pretrained(str(folder), create_model_card=False)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            _save_for_pylate(encoder, folder)
    return incompatibility


def _save_for_pylate(encoder: MultiVectorEncoder, folder: Path) -> None:
    transformer, *projections, mask, _ = encoder
    transformer.save(str(folder))
    sizes = {"max_seq_length": encoder.max_seq_length, "do_lower_case": transformer.do_lower_case}
    _write(folder / "sentence_bert_config.json", sizes)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, projection in enumerate(projections, start=1):
        path = f"{number}_Dense"
        (folder / path).mkdir(exist_ok=True)
        projection.save_torch_weights(str(folder / path))
        options = {
            name: value for name, value in projection.get_config_dict().items() if name not in _TOKEN_EMBEDDINGS
        }
        _write(folder / path / "config.json", options)
        modules.append({"idx": number, "name": str(number), "path": path, "type": "pylate.models.Dense.Dense"})
    _write(folder / "modules.json", modules)
    expansion = transformer.query_expansion
    settings = {
        "model_type": "ColBERT",
        "similarity_fn_name": {"maxsim": "MaxSim"}.get(encoder.similarity_fn_name, encoder.similarity_fn_name),
        # PyLate inserts the prefix, a single token, after the first token; sentence-transformers prepends the prompt,
        # with its trailing white space, to the text. Both give the same ids.
        "query_prefix": _prefix(encoder, "query"),
        "document_prefix": _prefix(encoder, "document"),
        "prompts": encoder.prompts,
        "default_prompt_name": None,
        "query_length": expansion["length"] if expansion else transformer.query_length,
        "document_length": transformer.document_length,
        "do_query_expansion": expansion is not None,
        "attend_to_expansion_tokens": bool(expansion and expansion["attend"]),
        "skiplist_words": mask.skiplist_words,
    }
    _write(folder / "config_sentence_transformers.json", settings)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _pylate_incompatibility(encoder: MultiVectorEncoder) -> str | None:
    """Why PyLate's format cannot represent an encoder; None if it can."""
    kinds = [type(module) for module in encoder]
    if len(kinds) < 4 or kinds != [Transformer, *[Dense] * (len(kinds) - 3), MultiVectorMask, Normalize]:
        names = ", ".join(kind.__name__ for kind in kinds)
        return f"its modules are {names}; PyLate supports Transformer, Dense (1 or more), MultiVectorMask, Normalize"
    for module in encoder:
        actual, expected = module.get_config_dict(), _settings_in_pylate(module)
        for name in sorted(actual.keys() | expected.keys()):
            if actual.get(name) != expected.get(name):
                return f"{type(module).__name__}: {name} is {actual.get(name)!r}; PyLate has {expected.get(name)!r}"
    if not isinstance(encoder[0].model, PreTrainedModel):
        return f"its weights are in a {type(encoder[0].model).__name__}, which transformers alone cannot open"
    if encoder.default_prompt_name:
        return f"it has a default prompt, {encoder.default_prompt_name!r}, which PyLate would add to the prefixes"
    for task in ("query", "document"):
        if _prefix(encoder, task) is None:
            return f"its {task} prefix {encoder.prompts[task]!r} is not a single token"
    unknown = unknown_words(encoder.tokenizer, encoder[-2].skiplist_words)
    return f"its tokenizer lacks the skiplist words {unknown}" if unknown else None


def _settings_in_pylate(module: Any) -> dict[str, Any]:
    """The settings of a module after a round trip through PyLate's format."""
    if isinstance(module, Dense):
        preserved = ("in_features", "out_features", "bias", "activation_function", "use_residual")
        options = {name: value for name, value in module.get_config_dict().items() if name in preserved}
        return {**options, **_TOKEN_EMBEDDINGS}
    if isinstance(module, MultiVectorMask):
        return {"skiplist_words": module.skiplist_words, "skiplist_tasks": ["document"]}
    if isinstance(module, Normalize):
        return _TOKEN_EMBEDDINGS
    settings = {**_TRANSFORMER, "document_length": module.document_length or DOCUMENT_LENGTH}
    expansion = module.query_expansion
    if expansion is None:
        return {**settings, "query_length": module.query_length or QUERY_LENGTH}
    return {**settings, "query_expansion": {**expansion, "strategy": "fixed", "token": None}}


def _prefix(encoder: MultiVectorEncoder, task: str) -> str | None:
    """Prefix token with which PyLate tokenizes as with a task's prompt; "" without a prompt, None if impossible."""
    tokenizer, prompt = encoder.tokenizer, encoder.prompts.get(task) or ""
    if not prompt:
        return ""
    for prefix in (prompt, prompt.rstrip()):
        if prefix not in tokenizer.get_vocab():
            continue
        token = tokenizer.convert_tokens_to_ids(prefix)
        without_prompt = [tokenizer(text)["input_ids"] for text in _PROBES]
        with_prompt = [tokenizer(prompt + text)["input_ids"] for text in _PROBES]
        sides = {tokenizer.padding_side, tokenizer.truncation_side}
        if with_prompt == [[*ids[:1], token, *ids[1:]] for ids in without_prompt] and sides == {"right"}:
            return str(prefix)
    return None
