from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.jobs.connection import auth_headers, dashboard_address


def test_the_token_sources_have_an_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of-the-file\n")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-the-home\n")
    home = {"HOME": str(tmp_path)}
    named = {**home, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    variable = {**named, "RAY_AUTH_TOKEN": "of-the-variable"}

    def token(environment: dict[str, str]) -> str:
        return auth_headers({**environment, "RAY_AUTH_MODE": "token"})["Authorization"]

    assert token(variable) == "Bearer of-the-variable"
    assert token(named) == "Bearer of-the-file"
    assert token(home) == "Bearer of-the-home"
    # Without a mode, a token in the environment is used; the one in the home folder is not, as in Ray.
    assert auth_headers(named) == {"Authorization": "Bearer of-the-file"}
    assert auth_headers(home) == {}
    assert auth_headers({**variable, "RAY_AUTH_MODE": "disabled"}) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "tokens"}, "RAY_AUTH_MODE is 'tokens'; expected token or disabled"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is token, but neither RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "gone"}, "RAY_AUTH_TOKEN_PATH names gone, which does not"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "."}, "the token file cannot be read (Is a directory)"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/dev/zero"}, "/dev/zero: the token has characters"),
        ({"RAY_AUTH_TOKEN": "two words"}, "characters that an HTTP header cannot carry"),
    ],
)
def test_an_invalid_token_is_refused(
    environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        auth_headers({"HOME": str(tmp_path), **environment})
    assert message in str(error.value)


@given(st.text(min_size=8))
def test_a_token_is_never_shown(token: str) -> None:
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": "/nowhere"}
    sent = token.strip()
    if sent and sent.isascii() and sent.isprintable() and " " not in sent:
        assert auth_headers(environment) == {"Authorization": f"Bearer {sent}"}
        return
    with pytest.raises(InputError) as error:
        auth_headers(environment)
    assert not sent or sent not in str(error.value)


def test_the_option_overrides_the_environment_and_the_first_variable_the_second() -> None:
    environment = {"RAY_API_SERVER_ADDRESS": "http://one:8265", "RAY_ADDRESS": "http://two:8265"}
    assert dashboard_address("HTTPS://head:8265/ray/", environment) == "https://head:8265/ray"
    assert dashboard_address(None, environment) == "http://one:8265"
    assert dashboard_address(None, {"RAY_ADDRESS": "http://two:8265"}) == "http://two:8265"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (None, "no cluster to submit to: pass --address"),
        ("", "no cluster to submit to"),
        ("auto", "--address is 'auto'; expected the address of the cluster's dashboard"),
        ("head:6379", "--address is 'head:6379'; expected"),
        ("ray://head:10001", "--address is 'ray://head:10001'; expected"),
        ("http://", "--address is 'http://'; expected"),
        ("http://head:99999", "--address is 'http://head:99999', not a URL"),
        ("http://[::1", "not a URL"),
        ("http://head:8265?a=b", "with a query"),
        ("http://user:secret@head:8265", "credentials in a URL"),
        ("http://user:secret@head:port", "an address with an @, not a URL"),
    ],
)
def test_an_invalid_address_is_refused_without_showing_secrets(option: str | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        dashboard_address(option, {})
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_an_invalid_variable_is_named() -> None:
    with pytest.raises(InputError, match=r"RAY_ADDRESS is '127\.0\.0\.1:6379'; expected"):
        dashboard_address(None, {"RAY_ADDRESS": "127.0.0.1:6379"})
