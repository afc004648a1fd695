"""The training loop of one worker.

Independent of Ray: `fit` runs in any process, alone or in a torch.distributed process group.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainingArguments

from raycol.errors import InputError
from raycol.models.encoder import load_encoder, quiet_transformers
from raycol.models.settings import new_tokens
from raycol.models.tokenization import Task, tokenize
from raycol.storage import Store
from raycol.training.averaging import MovingAverage
from raycol.training.checkpoints import newest_intact
from raycol.training.config import TrainConfig
from raycol.training.dataset import TrainingSet
from raycol.training.eval_and_save import EvalAndSaveCallback
from raycol.training.evaluation import eval_metrics, open_collections
from raycol.training.metrics import OnRecord
from raycol.training.objective import make_losses
from raycol.training.optimiser import freeze_layers, make_optimiser
from raycol.training.prepare import TrainingTask, make_plan
from raycol.training.setting_types import Attention
from raycol.training.sharding import shard
from raycol.training.state import mix_weights, snapshot
from raycol.training.trainer import Trainer

_ENCODER_SETTINGS = (
    "embedding_size",
    "new_projection",
    "query_length",
    "document_length",
    "query_expansion",
    "attend_to_expansion",
    "query_prefix",
    "document_prefix",
    "skiplist",
    "seed",
)
_TASKS: tuple[Task, ...] = ("query", "document")
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def fit(
    config: TrainConfig,
    task: TrainingTask,
    data: str | Path,
    collections: Path | None,
    workspace: Path,
    store: Store | None,
    on_record: OnRecord,
) -> tuple[MultiVectorEncoder, list[dict[str, float]]]:
    """Train an encoder as one of `config.num_workers` workers; return it with the Trainer's log history.

    Each worker trains on `batch_size / num_workers` examples of a batch and gathers the other workers' passages with
    their gradients, so a step equals that of one worker on the whole batch. Resumes from the newest intact checkpoint
    in the store, if there is one.

    Args:
        config: the settings.
        task: from `prepare`.
        data: folder or URI of the training set.
        collections: folder of the evaluation collections, if any.
        workspace: output folder of the base Trainer.
        store: destination of checkpoints; None saves none.
        on_record: called on every step and evaluation with its metrics.

    Raises:
        InputError: the model cannot be opened, or the checkpoint has another architecture.
        RaycolError: the loss or the gradient is not finite, or a checkpoint cannot be saved.
    """
    torch.manual_seed(config.seed)
    # Sharding moves a model that may not fit on one GPU there.
    encoder = new_encoder(config, None if config.on_gpu and not config.shard_weights else "cpu")
    freeze_unused(encoder)
    if config.gradient_checkpointing:
        encoder[0].model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if config.compile:
        encoder[0].model.compile(dynamic=True)
    if config.shard_weights:
        shard(encoder, config)
    examples = TrainingSet(data)
    checkpoint = newest_intact(store) if store else None
    losses = make_losses(encoder, config)
    moving_average = MovingAverage(encoder, config.ema_decay) if config.ema_decay else None
    changes: list[Callable[[], None]] = [moving_average.apply] if moving_average else []
    if collections and config.keep_initial:
        changes.append(partial(mix_weights, encoder, snapshot(encoder), config.keep_initial))
    trainer = Trainer(
        encoder,
        _arguments(config, task, workspace, evaluate_first=bool(collections) and not checkpoint),
        losses,
        make_optimiser(encoder, losses[0], config),
        config.data,
        examples,
        make_plan(config, task.sources, examples),
        EvalAndSaveCallback(config.save_every if store else 0, config.eval_every if collections else 0,
                            config.patience, config.keep_checkpoints, config.average_checkpoints or 1, task.until),
        store,
        open_collections(collections, task.collections) if collections else (),
        eval_metrics(config),
        on_record,
        moving_average,
        changes,
    )  # fmt: skip
    with quiet_transformers(), ExitStack() as stack:
        if config.report_to and trainer.args.process_index == 0:
            from raycol.training.trackers import tracking

            start = checkpoint.step if checkpoint else 0
            for tracker in stack.enter_context(tracking(config, task.run_id, start)):
                trainer.add_callback(tracker)
        trainer.train(resume_from_checkpoint=str(checkpoint.open(store)) if store and checkpoint else None)
    return encoder, trainer.state.log_history


def new_encoder(config: TrainConfig, device: str | None) -> MultiVectorEncoder:
    """Open the initial encoder, with low-rank adapters if `lora_rank` is set, and with the configured frozen layers.

    Raises:
        InputError: the model cannot be opened, or cannot have these settings.
    """
    encoder = load_encoder(config.model, device=device, **{name: getattr(config, name) for name in _ENCODER_SETTINGS})
    too_large = [size for size in config.matryoshka if size >= (encoder.get_embedding_dimension() or 0)]
    if too_large:
        raise InputError(
            f"`matryoshka={list(config.matryoshka)}`: the model has embeddings of {encoder.get_embedding_dimension()} "
            f"dimensions, expected fewer than that instead of {too_large[0]}"
        )
    if config.scoring == "mean-maxsim":
        encoder.similarity_fn_name = "meanmaxsim"
    if config.attn_implementation:
        _set_attention(encoder, config.attn_implementation)
    if config.lora_rank:
        _add_adapters(encoder, config)
    if config.freeze_layers:
        freeze_layers(encoder, config.freeze_layers)
    return encoder


def _set_attention(encoder: MultiVectorEncoder, name: Attention) -> None:
    """Select an attention implementation of transformers; flash attention on a GPU only, since the driver has none."""
    if name == "flash_attention_2":
        if not find_spec("flash_attn"):
            raise InputError(
                "attn_implementation flash_attention_2 needs the package flash-attn; pip install flash-attn, or leave "
                "it out"
            )
        if encoder.device.type == "cpu":
            return
    backbone = encoder[0].model
    try:
        backbone.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise InputError(f"attn_implementation {name}: {' '.join(str(error).split())}") from None
    if backbone.config._attn_implementation != name:
        raise InputError(f"attn_implementation {name}: {type(backbone).__name__} does not have it; leave it out")


def _add_adapters(encoder: MultiVectorEncoder, config: TrainConfig) -> None:
    """Freeze the backbone and add low-rank adapters to its linear layers (Hu et al. 2021, arXiv 2106.09685).

    The embeddings of new markers are randomly initialised, so these rows of the embedding table are trained as well.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("lora_rank needs the package peft; pip install 'raycol[lora]'") from None
    backbone = encoder[0].model
    table = backbone.get_input_embeddings()
    name = next(name for name, module in backbone.named_modules() if module is table)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        trainable_token_indices={name: list(new)} if (new := new_tokens(encoder)) else None,
    )
    encoder[0].model = get_peft_model(backbone, settings)


def freeze_unused(encoder: MultiVectorEncoder) -> None:
    """Freeze the weights that do not contribute to embeddings, such as a backbone's pooler.

    DistributedDataParallel waits for a gradient of every trainable weight.
    """
    for task in _TASKS:
        features = tokenize(encoder, ["one text", "and a longer one, with some more words"], task)
        features = {
            name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        encoder(features, task=task)["token_embeddings"].sum().backward()
    for parameter in encoder.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    encoder.zero_grad()


def merge_adapters(encoder: MultiVectorEncoder) -> None:
    """Merge low-rank adapters, if there are any, into the backbone's weights."""
    backbone = encoder[0].model
    if hasattr(backbone, "merge_and_unload"):
        encoder[0].model = backbone.merge_and_unload()


def _arguments(
    config: TrainConfig, task: TrainingTask, workspace: Path, *, evaluate_first: bool
) -> MultiVectorEncoderTrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(workspace),
        "per_device_train_batch_size": config.batch_size // config.num_workers,
        "gradient_accumulation_steps": config.accumulate,
        "max_steps": task.steps,
        "lr_scheduler_type": _SCHEDULES[config.schedule],
        "warmup_steps": config.warmup,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.dtype == "bfloat16",
        "fp16": config.dtype == "float16",
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": not config.on_gpu,
        "dataloader_num_workers": config.tokenizing_processes,
        "dataloader_pin_memory": config.on_gpu,
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        "eval_on_start": evaluate_first,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return MultiVectorEncoderTrainingArguments(**settings)
