"""Language models as teachers: they read a prompt with the query and the document, and answer yes or no.

The score is the logit of the answer, as the model's authors compute it. Their checkpoints are plain causal language
models, which do not say what prompt they were trained with, so the prompts are here, by the name of the model. Others
are refused, unless sentence-transformers has saved them as a `CrossEncoder` with its `LogitScore` and a chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycol.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_QUERY, _DOCUMENT, _BOS = "query", "document", "bos"


@dataclass(frozen=True)
class RerankerPrompt:
    """The prompt of a kind of language model, and the tokens that answer it.

    Args:
        name: matches the names of its checkpoints, in any case.
        architecture: of its checkpoints.
        parts: of the prompt: literal text, or a placeholder.
        yes: token whose logit is the score.
        no: token whose logit is subtracted; None subtracts nothing.
        max_length: tokens of the prompt, unless the user sets another limit. Long documents are cut at the end, what
            follows them is kept.
    """

    name: re.Pattern[str]
    architecture: str
    parts: tuple[str, ...]
    yes: str
    no: str | None
    max_length: int

    @property
    def template(self) -> str:
        """The prompt as a chat template for messages of the roles `query` and `document`."""
        return "".join(map(_as_jinja, self.parts))


def _as_jinja(part: str) -> str:
    if part == _BOS:
        return "{{ bos_token }}"
    if part in (_QUERY, _DOCUMENT):
        return f'{{{{ messages | selectattr("role", "eq", "{part}") | map(attribute="content") | first }}}}'
    return f"{{{{ {json.dumps(part)} }}}}"


# Sources: the model cards of Qwen/Qwen3-Reranker-0.6B (arXiv 2506.05176) and BAAI/bge-reranker-v2-gemma.
PROMPTS = (
    RerankerPrompt(
        re.compile("qwen3-reranker", re.IGNORECASE),
        "Qwen3ForCausalLM",
        (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
            'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: ",
            _QUERY,
            "\n<Document>: ",
            _DOCUMENT,
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        "yes",
        "no",
        8192,
    ),
    RerankerPrompt(
        re.compile("bge-reranker-v2-gemma", re.IGNORECASE),
        "GemmaForCausalLM",
        (
            _BOS,
            "A: ",
            _QUERY,
            "\nB: ",
            _DOCUMENT,
            "\nGiven a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'.",
        ),
        "Yes",
        None,
        1024,
    ),
)


def find_prompt(name_or_path: str, source: str, config: Mapping[str, Any]) -> RerankerPrompt:
    """Return the prompt of a causal language model.

    Args:
        name_or_path: as the user gives it.
        source: a local folder, without symbolic links, or a name on the hub.
        config: the checkpoint's config.json.

    Raises:
        InputError: the prompt of this model is not known.
    """
    architectures = config.get("architectures") or []
    names = [name_or_path, str(config.get("_name_or_path", ""))]
    if Path(name_or_path).is_dir():
        # Workers see no symbolic links. The hub's cache has the name in a folder above.
        *parents, folder = Path(source).parts
        names = [*names[1:], folder, *(name for name in parents if name.startswith("models--"))]
    for prompt in PROMPTS:
        if prompt.architecture in architectures and any(map(prompt.name.search, names)):
            return prompt
    raise InputError(
        f"model {name_or_path!r} is a language model ({', '.join(architectures)}) whose prompt is not known; expected "
        "Qwen3-Reranker or bge-reranker-v2-gemma in its name, or a model that sentence-transformers has saved as a "
        "CrossEncoder, with LogitScore and a chat template"
    )


def load_reranker(
    source: str, name: str, prompt: RerankerPrompt, *, device: str, max_length: int | None = None
) -> CrossEncoder:
    """Return a language model as a cross-encoder, with float32 weights.

    Args:
        source: the checkpoint.
        name: of the model, for errors.
        prompt: its prompt.
        device: cpu, cuda, ...
        max_length: tokens of the prompt; by default those of `prompt`.

    Raises:
        InputError: an answer is not a token of its tokenizer.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = Transformer(
        source,
        transformer_task="text-generation",
        model_kwargs={"dtype": torch.float32},
        processor_kwargs={"chat_template": prompt.template, "model_max_length": max_length or prompt.max_length},
    )

    def token(text: str) -> int:
        ids = transformer.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"model {name!r}: {text!r} is {len(ids)} tokens of its tokenizer; expected a single one")
        return int(ids[0])

    score = LogitScore(token(prompt.yes), token(prompt.no) if prompt.no else None)
    return CrossEncoder(modules=[transformer, score], device=device)


def is_reranker(model: CrossEncoder) -> bool:
    """Whether a cross-encoder is a language model that answers a prompt."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    return any(isinstance(module, LogitScore) for module in model)
