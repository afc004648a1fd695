"""Combinations of a training's settings that are refused, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from raycol.core.uris import is_uri
from raycol.training.setting_types import MIN_TEMPERATURE

if TYPE_CHECKING:
    from raycol.training.config import TrainConfig


# Settings of a source that mining does not have, and those of mining that a training sets.
_NOT_MINED = ("columns", "queries", "documents", "query_prompt", "document_prompt")
_SET_BY_TRAINING = {"index", "model", "version", "data", "out", "subset", "split", "on_error"}
_TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "comet")


def contradictions(config: TrainConfig) -> Iterator[str]:
    """Yield what is wrong with a configuration, and what to do about it."""
    if config.batch_size % config.num_workers:
        yield f"batch_size ({config.batch_size}) must be a multiple of num_workers ({config.num_workers})"
    if config.min_workers and config.min_workers >= config.num_workers:
        yield f"min_workers ({config.min_workers}) must be lower than num_workers ({config.num_workers})"
    if config.min_workers and not config.gather_across_workers:
        yield "min_workers changes the number of workers, which decides their negatives without gather_across_workers"
    if config.eval_data and config.held_out:
        yield "eval_data and held_out are alternatives; set one of them"
    if config.patience and not config.evaluates:
        yield "patience needs evaluations; set eval_data or held_out"
    by_source = config.by_source
    for one in by_source:
        if one.distils and config.n_ways == 1:
            yield (f"n_ways is 1; {one.objective_name} compares at least 2 documents of a query: pass 2 or more")
    objectives = [one.objective for one in by_source]
    if "margin-mse" in objectives and config.scoring == "xtr":
        yield "scoring is xtr, which ranks candidates, but margin-mse compares pairs; choose maxsim"
    if "distillation" not in objectives and (config.teacher_temperature or config.normalize_scores):
        yield "teacher_temperature and normalize_scores apply to objective distillation only"
    for number, (source, one) in enumerate(zip(config.data, by_source, strict=True)):
        if config.mixing == "examples" and len(config.data) > 1 and (own := [*source.own_settings()]):
            yield (
                f"data[{number}].{own[0]} applies to whole batches, which the sources share with mixing examples; "
                "choose mixing batches or round-robin"
            )
        if source.temperature and not one.has_softmax:
            yield f"data[{number}].temperature has no effect: {one.objective_name} has no softmax; leave it out"
    yield from _of_mining(config)
    if len(config.data) == 1 and config.data[0].weight is not None:
        yield "data[0].weight has no effect with a single source; leave weight out"
    weighted = next((number for number, source in enumerate(config.data) if source.weight is not None), None)
    if config.mixing == "round-robin" and weighted is not None:
        yield f"mixing round-robin takes sources in turn; leave out data[{weighted}].weight"
    if config.keep_initial and config.lora_rank:
        yield "keep_initial averages full weights, lora_rank trains adapters; leave out one of them"
    if config.average_checkpoints and config.lora_rank:
        yield "average_checkpoints averages full weights, lora_rank trains adapters; leave out one of them"
    if config.average_checkpoints and config.ema_decay:
        yield "ema_decay and average_checkpoints both average over steps; leave out one of them"
    if unknown := [name for name in config.report_to if name not in _TRACKERS]:
        yield f"report_to is {unknown[0]!r}: expected {', '.join(_TRACKERS[:-1])} or {_TRACKERS[-1]}"
    if config.report_to and is_uri(config.out) and not config.tracking_dir:
        yield "report_to needs a folder for the trackers' files, and out is a URI; set tracking_dir"
    if config.freeze_layers and config.lora_rank:
        yield "lora_rank freezes all layers and trains adapters; leave out freeze_layers or lora_rank"
    if config.shard_weights and config.num_workers == 1:
        yield "shard_weights divides weights among workers; raise num_workers or leave it out"
    if (config.mask_margin or 0) < 0 and not config.guide:
        yield f"mask_margin is {config.mask_margin}; without a guide it must be 0 or more"
    if config.temperature_learning_rate and any(one.objective or one.temperature for one in config.data):
        yield "temperature_learning_rate trains one temperature; leave out the sources' own objective and temperature"
    if config.temperature_learning_rate and config.temperature < MIN_TEMPERATURE:
        yield f"temperature is {config.temperature}; a trained one is at least {MIN_TEMPERATURE}"
    for name in ("lora_rank", "compile", "temperature_learning_rate"):
        if config.shard_weights and getattr(config, name):
            yield f"shard_weights does not go with {name}; leave out one of them"
    if config.shard_weights and (config.optimizer == "muon" or config.dtype == "float16"):
        yield "shard_weights needs optimizer adamw and dtype float32 or bfloat16"
    if config.pool_factor > 1 and config.matryoshka:
        yield "pool_factor pools whole embeddings, matryoshka cuts them; leave out one of them"
    if config.dtype == "float16" and not config.on_gpu:
        yield "dtype is float16, which needs GPU workers: set resources GPU=1, or choose bfloat16"
    if config.attn_implementation == "flash_attention_2" and (not config.on_gpu or config.dtype == "float32"):
        yield (
            "attn_implementation is flash_attention_2, which needs GPU workers (resources GPU=1) and dtype "
            "bfloat16 or float16; set these, or choose sdpa"
        )
    if config.shard_weights and config.activation_tokens:
        yield "shard_weights needs equal passes on all workers, activation_tokens varies them; leave out one of them"


def _of_mining(config: TrainConfig) -> Iterator[str]:
    """Yield what is wrong with the settings of mining during training."""
    if not config.remine_every:
        return
    source = config.data[0]
    if len(config.data) > 1:
        yield "remine_every mines negatives for a single source; pass one, or leave it out"
    if unread := [name for name in _NOT_MINED if getattr(source, name)]:
        yield f"remine_every does not go with data[0].{unread[0]}, which mining does not know; leave out one of them"
    if config.by_source[0].distils:
        yield "remine_every mines negatives without teacher scores; choose objective cached or contrastive"
    if config.patience:
        yield "remine_every does not go with patience; leave out one of them"
    if "corpus" not in (config.remine or {}):
        yield "remine_every needs the corpus to mine; set it in remine: corpus=FOLDER"
    if unusable := sorted({*(config.remine or {})} & _SET_BY_TRAINING):
        yield f"remine has {unusable[0]}, which the training sets; leave it out"
    from raycol.training.remining import mining_of

    try:
        mining_of(config, "model", "index", "mined")
    except ValidationError as error:
        first = error.errors()[0]
        yield f"remine.{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"


def without_effect(config: TrainConfig) -> dict[str, str]:
    """Return the settings that have no effect beside the others, each with the reason and what to do."""
    reasons: dict[str, str] = {}
    by_source = config.by_source
    in_batch = any(one.in_batch for one in by_source)
    if all(source.objective for source in config.data):
        reasons["objective"] = "every source sets its own objective; leave it out"
    if all(source.temperature for source in config.data):
        reasons["temperature"] = "every source sets its own temperature; leave it out"
    if not any(one.has_softmax for one in by_source):
        reasons["temperature"] = f"{config.objective_name} has no softmax for the temperature; leave it out"
    if config.scoring != "xtr":
        reasons["xtr_tokens"] = "it applies to scoring xtr only; choose that, or leave it out"
    if not in_batch and config.scoring != "xtr" and config.gather_across_workers:
        reasons["gather_across_workers"] = f"{config.objective_name} has no in-batch negatives; leave it out"
    if not in_batch:
        for name in ("mask_false_negatives", "mask_margin", "guide"):
            reasons[name] = f"{config.objective_name} has no in-batch negatives; leave it out"
    if all(one.is_contrastive for one in by_source):
        reasons["grad_cache"] = "objective cached is contrastive with GradCache; choose one of them instead"
    if not any(one.is_contrastive for one in by_source):
        for name in ("symmetric", "temperature_learning_rate"):
            reasons[name] = f"it is a variant of contrastive, not of {config.objective_name}; leave it out"
    if not any(one.distils and isinstance(one.objective, str) for one in by_source):
        reasons["contrastive_weight"] = "it applies to distillation, lambda-loss and margin-mse; leave it out"
    if len(config.data) == 1:
        reasons |= dict.fromkeys(("mixing", "mixing_temperature"), "it mixes several sources; leave it out")
    elif config.mixing == "round-robin":
        reasons["mixing_temperature"] = "mixing round-robin has no weights; leave it out"
    if not config.lora_rank:
        reasons["lora_alpha"] = "it scales the adapters of lora_rank; set lora_rank too, or leave it out"
    if not any(one.encodes_twice for one in by_source):
        reasons["activation_tokens"] = "without GradCache all activations are kept; leave it out"
    if config.mini_batch_tokens:
        reasons["mini_batch_size"] = "mini_batch_tokens replaces it; leave out one of them"
    if config.freeze_layers:
        reasons["embedding_learning_rate"] = "freeze_layers freezes the embeddings; leave out one of them"
    if not config.report_to:
        reasons["tracking_dir"] = "it is a folder of report_to's trackers; set report_to too, or leave it out"
    if not config.eval_data:
        reasons["eval_split"] = "it is a split of eval_data; set eval_data too, or leave it out"
    if not config.evaluates:
        for name in ("eval_every", "eval_metric"):
            reasons[name] = "there is no evaluation; set eval_data or held_out too, or leave it out"
    if not config.n_ways:
        reasons["sample_negatives"] = "without n_ways all negatives are used; set it too, or leave it out"
    if not config.remine_every:
        reasons["remine"] = "it is for mining during training; set remine_every too, or leave it out"
    if all(source.split for source in config.data):
        reasons["split"] = "every source sets its own split; leave it out"
    return reasons
