"""`raycol push`: a trained model on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from raycol.core.config import Config, Location, Names
from raycol.core.escaping import plain
from raycol.core.shown import Shown
from raycol.core.uris import is_uri
from raycol.core.version import __version__
from raycol.errors import InputError, RaycolError, reason_of
from raycol.training.config import MODEL_FILES

CARD = "README.md"
_DATA = "\n## Data\n"
# The model's name in the card's examples of use.
_LOADED = re.compile(r'(?<=encoder = )((?:load_encoder|MultiVectorEncoder|models\.ColBERT)\()"(?:[^"\\]|\\.)*"')


class PushConfig(Config):
    """Options of `raycol push`. The environment has the hub's address and token (`HF_ENDPOINT`, `HF_TOKEN`)."""

    model: Location
    """Model that `raycol train` wrote: a folder, or the URI of one."""

    name: str
    """Repository on the hub: OWNER/NAME, or NAME of your own account. Created if it does not exist."""

    private: bool = False
    """Create a private repository; an existing public one is refused."""

    revision: str | None = None
    """Branch to push to, created if it does not exist; by default main."""

    message: str = f"Model trained with raycol {__version__}"
    """Message of the commit."""

    license: str | None = None
    """Licence of the model, as the hub names it, such as apache-2.0; the card shows it."""

    data_licenses: Names = ()
    """Licences of the training data for the card, NAME=LICENCE each, with NAME as in its section Data."""


@dataclass(frozen=True, repr=False)
class Pushed(Shown):
    """Result of `raycol push`.

    Args:
        url: the repository.
        revision: branch of the commit.
        commit: its hash.
        files: the model's files.
        bytes: their size.
    """

    _main: ClassVar[tuple[str, ...]] = ("url", "revision", "commit", "files", "bytes")

    url: str
    revision: str
    commit: str
    files: int
    bytes: int


def push_model(config: PushConfig) -> Pushed:
    """Upload the files of a trained model to the hub, in one commit.

    Raises:
        InputError: the folder has no finished model; the hub refuses the token, the name or the card.
        RaycolError: the hub cannot be reached, or the upload fails.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    folder = _folder_of(config.model)
    files = _model_files(folder, config.model)
    card_for((folder / CARD).read_text(encoding="utf-8"), config, config.name)  # refuses before anything is created
    if constants.is_offline_mode():
        raise InputError("the hub is switched off by HF_HUB_OFFLINE; unset it to push a model")
    token = get_token()
    if not token:
        raise InputError("no token for the Hugging Face hub; set HF_TOKEN, or run: hf auth login")
    api = HfApi()
    with _explained(config.name, api.endpoint, token):
        repository = api.create_repo(config.name, private=config.private or None, exist_ok=True)
        name = repository.repo_id
        if config.private and not api.model_info(name).private:
            raise InputError(f"{name} exists and is public; make it private on the hub, or pass another name")
        if config.revision:
            api.create_branch(name, branch=config.revision, exist_ok=True)
        card = card_for((folder / CARD).read_text(encoding="utf-8"), config, name)
        contents: dict[str, Path | bytes] = {**{path: folder / path for path in files}, CARD: card.encode()}
        operations = [CommitOperationAdd(path, content) for path, content in contents.items()]
        commit = api.create_commit(name, operations, commit_message=config.message, revision=config.revision)
    return Pushed(
        url=str(repository),
        revision=config.revision or constants.DEFAULT_REVISION,
        commit=commit.oid,
        files=len(operations),
        bytes=sum(operation.upload_info.size for operation in operations),
    )


def _folder_of(model: str) -> Path:
    if is_uri(model):
        from raycol.models.remote import fetch_model

        return fetch_model(model)
    return Path(model)


def _model_files(folder: Path, model: str) -> list[str]:
    """Paths of a model's files, relative to its folder. The folder's other files are its owner's."""
    record = folder / MODEL_FILES
    if not record.is_file():
        raise InputError(f"model {model!r}: no {MODEL_FILES}; expected a model that raycol train finished")
    files = record.read_text(encoding="utf-8").splitlines()
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"model {model!r}: {MODEL_FILES} names {path!r:.100}, which leads out of the folder")
    if missing := [path for path in (CARD, *files) if not (folder / path).is_file()]:
        raise InputError(f"model {model!r}: {missing[0]} is missing; restore it, or train the model again")
    return files


def card_for(card: str, config: PushConfig, name: str) -> str:
    """Return a model's card with the licences, and with the repository's name in its examples of use.

    Raises:
        InputError: a licence is not of the training data, or the card is not one for the hub.
    """
    from huggingface_hub import ModelCard

    try:
        parsed = ModelCard(card)
    except Exception as error:  # the YAML's errors, and ValueError
        raise InputError(f"{CARD}: not a model card ({reason_of(error)}); restore it") from None
    if config.license:
        parsed.data["license"] = config.license
    parsed.text = _LOADED.sub(lambda call: f"{call[1]}{json.dumps(name)}", parsed.text)
    if config.data_licenses:
        before, title, after = parsed.text.partition(_DATA)
        data, next_title, rest = after.partition("\n## ")
        lines = [_license_line(each, data) for each in config.data_licenses]
        data = "\n".join([data.rstrip(), "", "Licences of the data:", "", *lines, ""])
        parsed.text = f"{before}{title}{data}{next_title}{rest}"
    return str(parsed)


def _license_line(given: str, data: str) -> str:
    name, separator, license_ = given.partition("=")
    if not separator or not license_.strip():
        raise InputError(f"data_licenses: {given!r:.100}; expected NAME=LICENCE")
    if f"\n| {plain(name)} |" not in data:
        known = re.findall(r"^\| (.+?) \| [\d,]+ \|", data, re.MULTILINE)
        raise InputError(f"data_licenses: the card has no data {name!r:.100}; it has {', '.join(known) or 'none'}")
    return f"- {plain(name)}: {plain(license_)}"


@contextmanager
def _explained(name: str, endpoint: str, token: str) -> Iterator[None]:
    """Raise errors of the hub's client as raycol's, without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except RaycolError:
        raise
    except Exception as error:
        # The client wraps an error of an upload; an error of its transfer library has no common base.
        cause = error if isinstance(error, HfHubHTTPError | ValueError) else error.__cause__ or error
        reason = reason_of(cause).replace(token, "***")
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
        if status == 401:
            message = f"{endpoint} does not accept the token; set HF_TOKEN, or run: hf auth login"
        elif status in (403, 404):
            message = f"{name}: {endpoint} does not let this token write there; pass a name of yours"
        elif status == 400 or isinstance(cause, ValueError):
            message = f"{name}: {endpoint} refuses it: {reason}"
        else:
            raise RaycolError(f"{name}: {endpoint} cannot be written ({reason}); repeat the command") from None
        raise InputError(message) from None
