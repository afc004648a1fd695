"""`raycol export`: graphs of ONNX and OpenVINO whose embeddings are the model's."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import raycol
from raycol.errors import InputError, RaycolError
from raycol.models import exporting
from raycol.models.encoder import load_encoder
from raycol.models.exported import ExportedEncoder, ExportedTask, ExportSettings, padded
from raycol.models.text_encoder import TextEncoder
from tests.conftest import MODELS, PROJECT, TOPICS

TEXTS = ["rain", "", "bread, butter and (flour)!", *TOPICS.values(), " ".join(TOPICS.values()) * 3]


def test_padding_of_expanded_queries() -> None:
    task = ExportedTask(
        prompt="", max_length=4, expand_to=3, expansion_id=9, attend_to_expansion=False, skipped_ids=(7,)
    )
    ids_BT, attention_BT, scored_BT = padded([[1], [1, 7, 2, 3]], task, pad_id=5)
    assert ids_BT.tolist() == [[1, 9, 9, 5], [1, 7, 2, 3]]
    assert attention_BT.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert scored_BT.tolist() == [[True, True, True, False], [True, False, True, True]]


def assert_equal(model: TextEncoder, exported: ExportedEncoder) -> None:
    assert (exported.dimension, exported.fingerprint) == (model.dimension, model.fingerprint)
    for name in ("encode_query", "encode_document"):
        for ours, theirs in zip(getattr(model, name)(TEXTS), getattr(exported, name)(TEXTS), strict=True):
            assert (theirs.dtype, theirs.shape) == (np.float32, ours.shape)
            np.testing.assert_allclose(theirs, ours, atol=1e-3, rtol=0)
        assert getattr(exported, name)([]) == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_exported_embeddings_are_the_models(tiny_colbert: Path, tmp_path: Path, format_: str, monkeypatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime" if format_ == "onnx" else "openvino"):
        pytest.importorskip(package, reason=f"needs the package {package}: pip install 'raycol[{format_}]'")
    out = tmp_path / "exported"
    result = raycol.export(tiny_colbert, out=out, format=format_)
    assert result.max_difference < 1e-3
    assert result.bytes == sum(path.stat().st_size for path in out.iterdir())
    model = TextEncoder(load_encoder(tiny_colbert, device="cpu"))
    assert_equal(model, ExportedEncoder(out, threads=1))

    index = tmp_path / "index"
    documents = (raycol.Document(str(n), each) for n, each in enumerate(model.encode_document(TEXTS[2:])))
    raycol.Index.create(index, documents)
    code = f"""\
import sys
sys.path[:] = {sys.path!r}
import raycol
print(raycol.Retriever(sys.argv[1], model=sys.argv[2]).search("rain")[0].id, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(index), str(out)]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    assert found == [raycol.Retriever(index, model=model).search("rain")[0].id, "False"]

    with pytest.raises(InputError, match="already exists"):
        raycol.export(tiny_colbert, out=out, format=format_)
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(RaycolError, match="the graph's embeddings differ"):
        raycol.export(tiny_colbert, out=tmp_path / "other", format=format_)
    assert {path.name for path in tmp_path.iterdir()} == {"exported", "index"}


@pytest.mark.slow
@pytest.mark.long
def test_a_real_model_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install 'raycol[onnx]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'raycol[onnx]'")
    name = MODELS / "answerai-colbert-small-v1"
    if not name.is_dir():
        pytest.skip(f"{name} is missing")
    raycol.export(name, out=tmp_path / "exported")
    assert_equal(TextEncoder(load_encoder(name, device="cpu")), ExportedEncoder(tmp_path / "exported"))


def test_what_cannot_be_exported(tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no export\.json; expected a folder that raycol export wrote"):
        ExportedEncoder(tiny_colbert)
    monkeypatch.setitem(sys.modules, "onnx", None)  # importing it fails
    with pytest.raises(InputError, match=r"the package onnx is missing; pip install 'raycol\[onnx\]'"):
        raycol.export(tiny_colbert, out=tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tokenizer", [None, "", '{"a": 1}'])
def test_a_damaged_export_is_refused(tmp_path: Path, tokenizer: str | None) -> None:
    task = ExportedTask(prompt="", max_length=8)
    settings = ExportSettings(format="onnx", dimension=16, fingerprint="f", pad_id=0, query=task, document=task)
    (tmp_path / "export.json").write_text(settings.model_dump_json())
    if tokenizer is not None:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(InputError, match=r"cannot be opened \(.+\); export the model again"):
        ExportedEncoder(tmp_path)
    (tmp_path / "export.json").write_text("")
    with pytest.raises(InputError, match=r"export\.json is not valid"):
        ExportedEncoder(tmp_path)
