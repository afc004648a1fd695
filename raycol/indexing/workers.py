"""The actors of a build, and running them over rows on Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from raycol.index.codebook_files import open_codebook
from raycol.index.columns import Columns
from raycol.index.manifest import CodebookInfo
from raycol.index.storage import open_store
from raycol.indexing.config import EncodingConfig
from raycol.indexing.encode import build_partition, encode_sample
from raycol.indexing.plan import Slice
from raycol.ray_session import ray_errors


def on_workers(
    actor: Callable[..., Any], config: EncodingConfig, rows: list[dict[str, Any]], arguments: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Run an actor class over rows on Ray Data, a row at a time; yield its rows as they come."""
    import ray
    import ray.data

    # Importing Ray Data sets its loggers up: what a person needs to see, the build's own report shows.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    workers = config.num_workers or int(resources.get("GPU" if config.use_gpu else "CPU", 1)) or 1
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        actor,
        fn_constructor_kwargs={"use_gpu": config.use_gpu, **arguments},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=1 if config.use_gpu else 0,
    )
    with ray_errors("the build"):
        yield from dataset.iter_rows()


class _Worker:
    """An encoder held by a Ray Data actor. One thread, so that the bytes do not depend on how many there are."""

    def __init__(self, model: str, batch_size: int, pool_factor: float, use_gpu: bool) -> None:
        import torch

        from raycol.models import load_encoder

        torch.set_num_threads(1)
        self.encoder = load_encoder(model, device="cuda" if use_gpu else "cpu")
        self.batch_size = batch_size
        self.pool_factor = pool_factor


class SampleEncoder(_Worker):
    """Encodes the sampled documents of one partition."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Take a batch of one row and return another."""
        row = {name: values[0] for name, values in batch.items()}
        part = Slice.from_row(row)
        tokens_TD = encode_sample(self.encoder, part, row["positions"], self.batch_size, self.pool_factor)
        return {
            "number": [int(row["number"])],
            "documents": [len(row["positions"])],
            "dim": [tokens_TD.shape[1]],
            "tokens": [tokens_TD.tobytes()],
        }


class PartitionBuilder(_Worker):
    """Builds one partition after the other."""

    def __init__(
        self,
        model: str,
        batch_size: int,
        pool_factor: float,
        use_gpu: bool,
        uri: str,
        codebook: str,
        dim: int,
        bits: int,
        columns: Columns,
        base: int,
    ) -> None:
        super().__init__(model, batch_size, pool_factor, use_gpu)
        self.store = open_store(uri)
        self.codebook = open_codebook(self.store, CodebookInfo.model_validate_json(codebook), dim, bits)
        self.columns = columns
        self.base = base

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Take a batch of one row and return another."""
        row = {name: values[0] for name, values in batch.items()}
        info = build_partition(
            self.encoder,
            self.codebook,
            self.store,
            Slice.from_row(row),
            batch_size=self.batch_size,
            pool_factor=self.pool_factor,
            columns=self.columns,
            base=self.base,
        )
        return {"number": [int(row["number"])], "partition": [info.model_dump_json()]}
