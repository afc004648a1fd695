"""`raycol push`, against a stand-in of the hub."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

import raycol
from raycol.cli import main
from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.storage.replacing import record_files
from raycol.training.config import MODEL_FILES
from tests.training.hub import TOKEN, Hub
from tests.training.test_card import make, settings

pytestmark = pytest.mark.sockets


@pytest.fixture(scope="module")
def trained(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as training leaves it, and a file of its owner's."""
    folder = tmp_path_factory.mktemp("hub") / "my-model"
    make(settings(tiny_colbert, folder, held_out=50, data=["hf:org/data", "my pairs.jsonl"]), tiny_colbert)
    record_files(folder, MODEL_FILES)
    (folder / "notes.txt").write_text("not for others")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has no such storage
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.close()


def files_of(folder: Path) -> dict[str, bytes]:
    listed = (folder / MODEL_FILES).read_text().splitlines()
    return {path: (folder / path).read_bytes() for path in listed}


def test_the_hub_has_the_models_files(trained: Path, hub: Hub, tmp_path: Path) -> None:
    pushed = raycol.push(
        trained,
        "my-model",
        private=True,
        license="mit",
        data_licenses=["org/data=CC0", "my pairs.jsonl=ours"],
    )
    expected, repository = files_of(trained), hub.repositories["me/my-model"]
    received = dict(repository.branches["main"])
    assert repository.private
    assert (pushed.url, pushed.files, pushed.revision) == (f"{hub.address}/me/my-model", len(expected), "main")
    assert pushed.bytes == sum(map(len, received.values()))
    card, before = received.pop("README.md").decode(), expected.pop("README.md").decode()
    assert received == expected
    data = ModelCard(card).data
    assert (data.license, data.datasets, len(data.eval_results)) == ("mit", ["org/data"], 4)
    assert data.eval_results == ModelCard(before).data.eval_results
    licences = "\n\nLicences of the data:\n\n- org/data: CC0\n- my pairs.jsonl: ours\n\n## Settings\n"
    assert licences in card
    assert card.count('("me/my-model")\n') == 3
    text = card.replace('("me/my-model")', '("my-model")').replace(licences, "\n\n## Settings\n")
    assert text.partition("\n# my-model")[2] == before.partition("\n# my-model")[2]
    for path, content in repository.branches["main"].items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    theirs, ours = (load_encoder(each, device="cpu").encode_query(["rain"])[0] for each in (tmp_path, trained))
    assert (theirs == ours).all()


def test_a_branch_and_a_second_push(trained: Path, hub: Hub, capsys: pytest.CaptureFixture) -> None:
    command = ["push", str(trained), "me/other", "--revision", "v1/a", "--message", "First"]
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--json"])
        assert not stopped.value.code
    repository = hub.repositories["me/other"]
    assert (repository.messages, repository.private) == (["First", "First"], False)
    assert (len(repository.branches["main"]), len(repository.branches["v1/a"])) == (0, len(files_of(trained)))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["commit"] == "1" * 40
    with pytest.raises(InputError, match="me/other exists and is public"):
        raycol.push(trained, "me/other", private=True)


@pytest.mark.parametrize(
    ("name", "token", "options", "code", "message"),
    [
        ("me/m", "hf_wrong", [], 2, "does not accept the token"),
        ("me/m", "", [], 2, "no token for the Hugging Face hub"),
        ("them/m", TOKEN, [], 2, "them/m: http://127.0.0.1:{port} does not let this token write there"),
        ("not a name", TOKEN, [], 2, "not a name: http://127.0.0.1:{port} refuses it: "),
        ("me/m", TOKEN, ["--data-licenses", "other=mit"], 2, "no data 'other'; it has org/data, my pairs.jsonl"),
        ("me/m", TOKEN, ["--data-licenses", "org/data"], 2, "expected NAME=LICENCE"),
    ],
)
def test_refusals(
    trained: Path, hub: Hub, name: str, token: str, options: list[str], code: int, message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(trained / "no-token"))
    error = refused(["push", str(trained), name, *options], code, capsys)
    assert message.format(port=hub.address.rpartition(":")[2]) in error
    assert hub.repositories == {}


def test_no_network_no_model(trained: Path, hub: Hub, tmp_path: Path, monkeypatch, capsys) -> None:
    hub.close()
    assert f"{hub.address} cannot be written" in refused(["push", str(trained), "me/m"], 1, capsys)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "switched off by HF_HUB_OFFLINE" in refused(["push", str(trained), "me/m"], 2, capsys)
    assert f"no {MODEL_FILES}; expected" in refused(["push", str(tmp_path), "me/m"], 2, capsys)
    shutil.copytree(trained, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refused(["push", str(tmp_path / "damaged"), "me/m"], 2, capsys)


def test_files_outside_the_model_are_never_pushed(trained: Path, hub: Hub, tmp_path: Path, capsys) -> None:
    shutil.copytree(trained, tmp_path / "model")
    secret = tmp_path / "secret"
    secret.write_text("a key")
    for path in ("../secret", str(secret)):
        with (tmp_path / "model" / MODEL_FILES).open("a") as file:
            file.write(f"{path}\n")
        assert "leads out of the folder" in refused(["push", str(tmp_path / "model"), "me/m"], 2, capsys)
        shutil.copy(trained / MODEL_FILES, tmp_path / "model" / MODEL_FILES)
    assert hub.repositories == {}


def refused(command: list[str], code: int, capsys: pytest.CaptureFixture) -> str:
    """The one line of a command that fails."""
    with pytest.raises(SystemExit) as stopped:
        main(command)
    progress, error = capsys.readouterr().err.splitlines()
    assert (stopped.value.code, progress, error[:7]) == (code, "Uploading ...", "error: ")
    assert TOKEN not in error
    return error
