"""Saving encoders: into a folder that `raycol.models.encoder.load_encoder`, sentence-transformers and PyLate all open.

All three read PyLate's layout: a transformer, linear layers, and the settings that ColBERT papers name. What PyLate
cannot express is saved in sentence-transformers' own layout, which PyLate does not read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import PreTrainedModel

from raycol.models.encoder import DOCUMENT_LENGTH, QUERY_LENGTH, quiet_transformers, words_not_in

# What sentence-transformers makes of the modules of a checkpoint in PyLate's layout.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
_OF_TOKENS = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}

# Texts that are tokenised as PyLate does and as sentence-transformers does, to see that both do alike.
_PROBES = ("", "a", "Rain, wind and 12 storms!", "(x) naïve Straße", "東京の雨")


def save_encoder(encoder: MultiVectorEncoder, folder: Path) -> str | None:
    """Write an encoder's weights, tokenizer and settings to a folder, which is made if need be.

    raycol and sentence-transformers open it as the encoder that it was: its fingerprint is the same. PyLate encodes
    queries and documents alike too, unless the encoder has what PyLate's layout has no room for: modules beside
    transformer, projection, mask and normalisation (token pooling, no projection), a prefix that is not one token,
    lengths left open, expansion of another kind than to a fixed length with mask tokens, a skiplist for queries or of
    words that the tokenizer does not have, an allowlist of tokens. Then it is saved as sentence-transformers does.

    Returns:
        None where PyLate opens the folder, and otherwise what stands in the way.

    Raises:
        OSError: the folder cannot be written.
    """
    obstacle = _obstacle(encoder)
    with quiet_transformers():
        if obstacle:
            encoder.save_pretrained(str(folder), create_model_card=False)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            _save_for_pylate(encoder, folder)
    return obstacle


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
        options = {name: value for name, value in projection.get_config_dict().items() if name not in _OF_TOKENS}
        _write(folder / path / "config.json", options)
        modules.append({"idx": number, "name": str(number), "path": path, "type": "pylate.models.Dense.Dense"})
    _write(folder / "modules.json", modules)
    expansion = transformer.query_expansion
    settings = {
        "model_type": "ColBERT",
        "similarity_fn_name": {"maxsim": "MaxSim"}.get(encoder.similarity_fn_name, encoder.similarity_fn_name),
        # PyLate puts a prefix, one token, behind the first one. sentence-transformers puts prompts before the text:
        # the same tokens, and with them the white space that the prefix had.
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


def _obstacle(encoder: MultiVectorEncoder) -> str | None:
    """What an encoder has that PyLate's layout cannot express, if anything."""
    kinds = [type(module) for module in encoder]
    if len(kinds) < 4 or kinds != [Transformer, *[Dense] * (len(kinds) - 3), MultiVectorMask, Normalize]:
        names = ", ".join(kind.__name__ for kind in kinds)
        return f"its modules are {names}; PyLate has Transformer, Dense (one or more), MultiVectorMask, Normalize"
    for module in encoder:
        found, expected = module.get_config_dict(), _settings_in_pylate(module)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                return f"{type(module).__name__}: {name} is {found.get(name)!r}; PyLate has {expected.get(name)!r}"
    if not isinstance(encoder[0].model, PreTrainedModel):
        return f"its weights are in a {type(encoder[0].model).__name__}, which transformers alone does not open"
    if encoder.default_prompt_name:
        return f"it has a default prompt, {encoder.default_prompt_name!r}, which PyLate would add to the prefixes"
    for task in ("query", "document"):
        if _prefix(encoder, task) is None:
            return f"its {task} prefix {encoder.prompts[task]!r} is not one token of its own"
    unknown = words_not_in(encoder.tokenizer, encoder[-2].skiplist_words)
    return f"its tokenizer does not have the words {unknown} of the skiplist" if unknown else None


def _settings_in_pylate(module: Any) -> dict[str, Any]:
    """The settings that a module has after saving and opening it in PyLate's layout."""
    if isinstance(module, Dense):
        free = ("in_features", "out_features", "bias", "activation_function", "use_residual")
        return {**{name: value for name, value in module.get_config_dict().items() if name in free}, **_OF_TOKENS}
    if isinstance(module, MultiVectorMask):
        return {"skiplist_words": module.skiplist_words, "skiplist_tasks": ["document"]}
    if isinstance(module, Normalize):
        return _OF_TOKENS
    settings = {**_TRANSFORMER, "document_length": module.document_length or DOCUMENT_LENGTH}
    expansion = module.query_expansion
    if expansion is None:
        return {**settings, "query_length": module.query_length or QUERY_LENGTH}
    return {**settings, "query_expansion": {**expansion, "strategy": "fixed", "token": None}}


def _prefix(encoder: MultiVectorEncoder, task: str) -> str | None:
    """The token that PyLate puts where the prompt of a task comes out; None where it would not be the same."""
    tokenizer, prompt = encoder.tokenizer, encoder.prompts.get(task) or ""
    if not prompt:
        return ""
    for prefix in (prompt, prompt.rstrip()):
        if prefix not in tokenizer.get_vocab():
            continue
        token = tokenizer.convert_tokens_to_ids(prefix)
        apart = [tokenizer(text)["input_ids"] for text in _PROBES]
        together = [tokenizer(prompt + text)["input_ids"] for text in _PROBES]
        sides = {tokenizer.padding_side, tokenizer.truncation_side}
        if together == [[*ids[:1], token, *ids[1:]] for ids in apart] and sides == {"right"}:
            return str(prefix)
    return None
