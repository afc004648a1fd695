from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError
from raycol.jobs.token import auth_headers


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
