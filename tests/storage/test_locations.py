"""Paths and URIs: credentials in them, which ones configurations accept, and opening them without a network."""

from pathlib import Path
from typing import Any

import pytest

from raycol.core.uris import check_location, join_uri, open_uri, parent_uri, remedy, without_options
from raycol.errors import InputError
from raycol.evaluation.config import EvaluateConfig
from raycol.indexing.config import AppendConfig, IndexConfig
from raycol.mining import MineConfig, ScoreConfig
from raycol.serving.config import ServeConfig
from raycol.storage import open_store
from raycol.storage.object_writes import ObjectWriter
from raycol.training import TrainConfig

SECRET = "hunter2"
WITH_SECRETS = [
    f"s3://key:{SECRET}@bucket/x",
    f"s3://{SECRET}@bucket/x",
    f"gs://{SECRET}@bucket/x",
    f"s3://bucket/x?access_key=a&secret_key={SECRET}",
    f"s3://bucket/x?region=eu-west-1&session_token={SECRET}",
    f"s3://bucket/x?X-Amz-Signature={SECRET}",
    f"abfs://account.blob.core.windows.net/c/x?sig={SECRET}",
    f"abfs://account.blob.core.windows.net/c/x?client_secret={SECRET}",
    f"gs://bucket/x?json_credentials={SECRET}",
    f"https://host/index?token={SECRET}",
]


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    for refuse in (check_location, open_uri, open_store):
        with pytest.raises(InputError, match="put them into the environment") as error:
            refuse(uri)
        assert SECRET not in str(error.value)


LOCATION_SETTINGS: list[tuple[Any, dict[str, Any], str]] = [
    (IndexConfig, {"corpus": "c", "out": "o"}, "corpus"),
    (IndexConfig, {"corpus": "c", "out": "o"}, "out"),
    (AppendConfig, {"corpus": "c", "index": "i"}, "index"),
    (TrainConfig, {"model": "m", "data": "d", "out": "o"}, "data"),
    (TrainConfig, {"model": "m", "data": "d", "out": "o"}, "storage"),
    (TrainConfig, {"model": "m", "data": "d", "out": "o"}, "eval_data"),
    (TrainConfig, {"model": "m", "data": "d", "out": "o"}, "out"),
    (MineConfig, {"index": "i", "data": "d", "out": "o"}, "index"),
    (MineConfig, {"index": "i", "data": "d", "out": "o"}, "corpus"),
    (ScoreConfig, {"teacher": "t", "data": "d", "out": "o"}, "out"),
    (EvaluateConfig, {"data": "d"}, "data"),
    (EvaluateConfig, {"data": "d"}, "index"),
    (ServeConfig, {"index": "i"}, "index"),
    (ServeConfig, {"index": "i"}, "model"),
    (TrainConfig, {"data": "d", "out": "o"}, "model"),
    (IndexConfig, {"corpus": "c", "out": "o"}, "model"),
    (MineConfig, {"index": "i", "data": "d", "out": "o"}, "cross_encoder"),
    (ScoreConfig, {"data": "d", "out": "o"}, "teacher"),
    (EvaluateConfig, {"data": "d"}, "model"),
]


@pytest.mark.parametrize(("kind", "values", "name"), LOCATION_SETTINGS)
def test_no_configuration_accepts_credentials(kind: Any, values: dict[str, Any], name: str, tmp_path: Path) -> None:
    for bad in WITH_SECRETS[:4]:
        for value in (bad, {"path": bad, "weight": 1}) if name == "data" and kind is TrainConfig else (bad,):
            with pytest.raises(InputError) as error:
                kind.load(overrides={**values, name: value})
            assert SECRET not in str(error.value)
            file = tmp_path / "settings.yaml"
            file.write_text(f"{name}: {bad!r}\n")
            with pytest.raises(InputError) as error:
                kind.load(file, {key: value for key, value in values.items() if key != name})
            assert SECRET not in str(error.value)


@pytest.mark.parametrize("out", [Path("s3://bucket/model"), "gs:/bucket/model"])
def test_a_collapsed_uri_is_not_used_as_a_folder(out: Any) -> None:
    with pytest.raises(InputError, match=r"out: (s3|gs):/bucket/model is neither a path nor a URI"):
        TrainConfig.load(overrides={"model": "m", "data": "d", "out": out})


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/some prefix/x@y",
        "s3://bucket/x?region=eu-west-1",
        "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1",
        "gs://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&retry_limit_seconds=1",
        "s3://bucket/?.jsonl",
        "C:/x",
        "hf:org/name",
        "a=b?c",
    ],
)
def test_other_locations_are_accepted(uri: str) -> None:
    assert check_location(uri) == uri


def test_options_of_a_uri_are_kept_for_files_in_it() -> None:
    uri = "s3://bucket/runs?region=eu-west-1"
    assert without_options(uri) == "s3://bucket/runs"
    assert join_uri(uri, "ray") == "s3://bucket/runs/ray?region=eu-west-1"
    assert join_uri(parent_uri(uri), "other") == "s3://bucket/other?region=eu-west-1"
    assert join_uri("/a/b/", "c") == "/a/b/c"
    assert parent_uri("a/b") == "a"


def test_google_cloud_storage_is_addressed_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests: the bucket and prefix, and the client that writes."""
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    for uri in ("gs://bucket/some/index", "gcs://bucket/some/index/", "gs://bucket/some/index?project_id=p"):
        opened = open_uri(uri)
        assert (opened.system.type_name, opened.path) == ("gcs", "bucket/some/index")
        assert opened.uri_of("bucket/some/a b").startswith(uri.partition("bucket")[0] + "bucket/some/a%20b")
        writer = ObjectWriter(opened, without_options(uri))
        assert writer._key("manifests/1") == "some/index/manifests/1"
        assert type(writer._client).__name__ == "GCSStore"
    local = open_uri("gs://bucket/x?endpoint_override=127.0.0.1:9&scheme=http")
    assert local.endpoint == "http://127.0.0.1:9"


def test_the_endpoint_comes_from_the_uri_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7")
    assert open_uri("s3://bucket/x").endpoint == "http://127.0.0.1:7"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:8")
    assert open_uri("s3://bucket/x").endpoint == "http://127.0.0.1:8"
    assert open_uri("s3://bucket/x?endpoint_override=127.0.0.1:9").endpoint == "https://127.0.0.1:9"


def test_aws_profiles_are_refused_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "work")
    store = open_store("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    with pytest.raises(InputError, match="profiles work for reading only; export the credentials"):
        store.check_writable()


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("AWS Error NO_SUCH_BUCKET during X", "create it"),
        ("AWS Error ACCESS_DENIED during X", "no permission"),
        ("AWS Error INVALID_ACCESS_KEY_ID", "no usable credentials"),
        ("AWS Error NETWORK_CONNECTION during X: curlCode: 7", "try again"),
        ("AWS Error UNKNOWN (HTTP status 503)", "try again"),
        ("Disk quota", ""),
    ],
)
def test_errors_of_a_store_come_with_advice(message: str, advice: str) -> None:
    assert advice in remedy(OSError(message))
    assert bool(advice) == bool(remedy(OSError(message)))
