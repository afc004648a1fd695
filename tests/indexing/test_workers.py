"""What a worker makes of a row of the dataset, without Ray; above all of what goes wrong there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from raycol.data import Fields, corpus_files
from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError, RaycolError
from raycol.index.format.manifest import ModelInfo
from raycol.indexing import IndexConfig
from raycol.indexing.part import Task
from raycol.indexing.plan import plan_build
from raycol.indexing.workers import SampleEncoder, open_encoder
from raycol.models.encoder import encoder_fingerprint, load_encoder


@pytest.fixture(scope="module")
def fingerprint(tiny_colbert: Path) -> str:
    return encoder_fingerprint(load_encoder(tiny_colbert, device="cpu"))


def sample(corpus: Path, model: Path, fingerprint: str, **task: Any) -> list[dict[str, Any]]:
    """The rows that a worker makes of a corpus's parts."""
    plan = plan_build(corpus_files(str(corpus)), Fields(), 40)
    rows = [{"number": number, "part": part.to_json(), "positions": [1]} for number, part in enumerate(plan.parts)]
    made = Task(
        Fields(), **{"columns": {}, "batch_tokens": 100, "pool_factor": 1, "on_error": "fail", "base": 0} | task
    )
    info = ModelInfo(name=str(model), fingerprint=fingerprint).model_dump_json()
    config = IndexConfig(corpus=str(corpus), out="i")
    return list(IN_PROCESS.run(SampleEncoder, config, rows, {"task": made.to_json(), "model": info, "dim": 16}))


def test_a_worker_takes_no_other_model_than_the_build_was_started_with(
    corpus: Path, tiny_colbert: Path, fingerprint: str, tmp_path: Path
) -> None:
    assert [row["documents"] for row in sample(corpus, tiny_colbert, fingerprint)] == [1, 1]
    other = tmp_path / "other"
    encoder = load_encoder(tiny_colbert, device="cpu")
    with torch.no_grad():
        next(encoder.parameters())[0] += 0.1
    encoder.save_pretrained(str(other))
    found = encoder_fingerprint(encoder)
    with pytest.raises(InputError, match=rf"'{other}' on .* the fingerprint {found}, .* began with has {fingerprint}"):
        sample(corpus, other, fingerprint)
    # A model that is overwritten while the build goes on.
    moved = tmp_path / "moved"
    shutil.copytree(tiny_colbert, moved)
    encoder.save_pretrained(str(moved))
    with pytest.raises(InputError, match="give all nodes the same model"):
        sample(corpus, moved, fingerprint)


def test_what_fails_when_a_worker_is_opened_comes_back_as_itself(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/gone"):
        sample(corpus, tmp_path / "gone", "f")


def test_what_nobody_expected_comes_back_with_its_place(
    corpus: Path, tiny_colbert: Path, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("raycol.indexing.workers.encode_sample", fail)
    with pytest.raises(RaycolError, match=rf"^a worker failed on {corpus} from line 1 on: ZeroDivisionError: of all"):
        sample(corpus, tiny_colbert, fingerprint)


def test_resources_are_those_that_a_worker_can_have() -> None:
    config = IndexConfig(corpus="c", out="i", resources="memory=1e9,disk=2")
    assert config.resources == {"CPU": 1, "memory": 1e9, "disk": 2}
    with pytest.raises(ValidationError, match="found object_store_memory, which workers cannot reserve"):
        IndexConfig(corpus="c", out="i", resources={"object_store_memory": 1e9})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_checked_encoder_is_cast_as_it_would_be_loaded(tiny_colbert: Path, fingerprint: str, dtype: Any) -> None:
    loaded = load_encoder(tiny_colbert, device="cpu", dtype=dtype)
    cast = open_encoder(str(tiny_colbert), False, dtype, fingerprint)
    assert encoder_fingerprint(cast) == encoder_fingerprint(loaded) != fingerprint
    buffers = [{name: buffer.dtype for name, buffer in each.named_buffers()} for each in (cast, loaded)]
    assert buffers[0] == buffers[1]
