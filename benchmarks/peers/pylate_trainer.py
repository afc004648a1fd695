"""Train a model with PyLate on given examples, as `benchmarks/pylate_training.py` asks.

    .venv-pylate/bin/python benchmarks/peers/pylate_trainer.py WORK.json

WORK.json has `model`, a folder that raycol saved; `examples`, a file of JSON Lines with a query and a positive each,
in the order of the batches; `batch_size`, `learning_rate`, `warmup_steps`, `seed`, `threads`, and `out`. Prints the
seconds and CPU seconds of training, and the losses, as JSON.
"""

import json
import sys
import time

import datasets
import torch
from pylate import losses, models, utils
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sampler import DefaultBatchSampler
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback


def in_order(dataset, batch_size, drop_last, **_):
    """Return batches in the order of the examples."""
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def main(path: str) -> None:
    """Train, save, and print what it took."""
    with open(path) as file:
        work = json.load(file)
    torch.set_num_threads(work["threads"])
    with open(work["examples"]) as file:
        examples = [json.loads(line) for line in file]
    data = datasets.Dataset.from_dict({name: [one[name] for one in examples] for name in ("query", "positive")})
    model = models.ColBERT(work["model"], device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            work["out"] + "-trainer", num_train_epochs=1, per_device_train_batch_size=work["batch_size"],
            learning_rate=work["learning_rate"], lr_scheduler_type="linear", warmup_steps=work["warmup_steps"],
            seed=work["seed"], batch_sampler=in_order, use_cpu=True, logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        ),
        train_dataset=data,
        loss=losses.Contrastive(model=model),
        data_collator=utils.ColBERTCollator(model.tokenize),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    start, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    cost = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    model.save_pretrained(work["out"])
    print(json.dumps({**cost, "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
