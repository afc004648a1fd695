"""Losses of PyLate on given batches, which `tests/training/test_tokens.py` compares raycol's with.

    .venv-pylate/bin/python benchmarks/peers/pylate_losses.py MODEL BATCHES.json

MODEL is a folder that raycol saved. BATCHES.json has the `objective` (contrastive, cached or distillation), the
`learning_rate` of AdamW, which is constant, and `batches`: of each its columns, the query first, and a `label` for
distillation. Prints the loss of each step as JSON.
"""

import json
import sys

import torch
from pylate import losses, models, utils


def main(model: str, path: str) -> None:
    """Take a step on each batch and print its loss."""
    with open(path) as file:
        work = json.load(file)
    encoder = models.ColBERT(model, device="cpu")
    encoder.train()
    loss = {
        "contrastive": lambda: losses.Contrastive(encoder),
        "cached": lambda: losses.CachedContrastive(encoder, mini_batch_size=4),
        "distillation": lambda: losses.Distillation(encoder, normalize_scores=True),
    }[work["objective"]]()
    collate = utils.ColBERTCollator(tokenize_fn=encoder.tokenize)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=work["learning_rate"], weight_decay=0.0)
    found = []
    for batch in work["batches"]:
        names = [name for name in batch[0] if name not in ("query", "label")]
        columns = [[{"query": row["query"]} for row in batch]]
        if work["objective"] == "distillation":  # the documents of all queries in one column
            columns.append([{"document": row[name]} for row in batch for name in names])
        else:
            columns += [[{"document": row[name]} for row in batch] for name in names]
        inputs = []
        for column in columns:
            (prefix,) = column[0]
            features = collate(column)
            keys = [key for key in features if key.startswith(f"{prefix}_")]
            inputs.append({key.removeprefix(f"{prefix}_"): features[key] for key in keys})
        labels = torch.tensor([row["label"] for row in batch]) if "label" in batch[0] else None
        optimiser.zero_grad()
        step = loss(inputs, labels)
        step.backward()
        optimiser.step()
        found.append(round(step.item(), 6))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
