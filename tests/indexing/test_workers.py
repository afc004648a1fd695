"""Workers of a build, without Ray: results and errors of their rows."""

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
from raycol.indexing.part import PartSettings
from raycol.indexing.plan import plan_build
from raycol.indexing.workers import EncodedSample, PartSample, SampleEncoder, open_encoder
from raycol.models.encoder import encoder_fingerprint, load_encoder


@pytest.fixture(scope="module")
def fingerprint(tiny_colbert: Path) -> str:
    return encoder_fingerprint(load_encoder(tiny_colbert, device="cpu"))


def sample(corpus: Path, model: Path, fingerprint: str, **changes: Any) -> list[EncodedSample]:
    """Return the results of a `SampleEncoder` for a corpus's parts."""
    plan = plan_build(corpus_files(str(corpus)), Fields(), 40)
    samples = {number: PartSample(part, [1]) for number, part in enumerate(plan.parts)}
    part_settings = PartSettings(
        Fields(), **{"columns": {}, "batch_tokens": 100, "pool_factor": 1, "on_error": "fail", "base": 0} | changes
    )
    info = ModelInfo(name=str(model), fingerprint=fingerprint)
    config = IndexConfig(corpus=str(corpus), out="i")
    arguments = {**config.model_arguments, "settings": part_settings, "model": info, "dim": 16}
    return [result for _, result in IN_PROCESS.run(SampleEncoder, config, samples, arguments)]


@pytest.mark.slow
def test_a_worker_refuses_another_model_than_the_drivers(
    corpus: Path, tiny_colbert: Path, fingerprint: str, tmp_path: Path
) -> None:
    assert [result.documents for result in sample(corpus, tiny_colbert, fingerprint)] == [1, 1]
    other = tmp_path / "other"
    encoder = load_encoder(tiny_colbert, device="cpu")
    with torch.no_grad():
        next(encoder.parameters())[0] += 0.1
    encoder.save_pretrained(str(other))
    found = encoder_fingerprint(encoder)
    with pytest.raises(InputError, match=rf"'{other}' on .* has fingerprint {found}, expected {fingerprint}"):
        sample(corpus, other, fingerprint)
    # A model that is overwritten during the build.
    moved = tmp_path / "moved"
    shutil.copytree(tiny_colbert, moved)
    encoder.save_pretrained(str(moved))
    with pytest.raises(InputError, match="put the same model on all nodes"):
        sample(corpus, moved, fingerprint)


def test_an_error_while_a_worker_loads_its_model_is_raised_unchanged(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}/missing"):
        sample(corpus, tmp_path / "missing", "f")


def test_an_unexpected_error_is_reported_with_its_part(
    corpus: Path, tiny_colbert: Path, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("raycol.indexing.workers.encode_sample", fail)
    with pytest.raises(RaycolError, match=rf"^a worker failed on {corpus} from line 1 on: ZeroDivisionError: of all"):
        sample(corpus, tiny_colbert, fingerprint)


def test_resources_that_a_worker_cannot_have_are_refused() -> None:
    config = IndexConfig(corpus="c", out="i", resources="memory=1e9,disk=2")
    assert config.resources == {"CPU": 1, "memory": 1e9, "disk": 2}
    with pytest.raises(ValidationError, match="found object_store_memory, which workers cannot reserve"):
        IndexConfig(corpus="c", out="i", resources={"object_store_memory": 1e9})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_cast_parameters_equals_loading_in_that_dtype(tiny_colbert: Path, fingerprint: str, dtype: Any) -> None:
    loaded = load_encoder(tiny_colbert, device="cpu", dtype=dtype)
    cast = open_encoder(str(tiny_colbert), False, dtype, fingerprint)
    assert encoder_fingerprint(cast) == encoder_fingerprint(loaded) != fingerprint
    buffers = [{name: buffer.dtype for name, buffer in each.named_buffers()} for each in (cast, loaded)]
    assert buffers[0] == buffers[1]
