"""A cluster's token, from the sources that Ray reads. Messages never contain it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from raycol.errors import InputError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
# Written by `ray get-auth-token --generate`, in the home folder.
_DEFAULT_FILE = Path(".ray", "auth_token")

TOKEN_HINT = f"set {MODE}=token, and {TOKEN} (or {TOKEN_FILE}, a file) to the cluster's token"


def auth_headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the header that carries the token; empty if authentication is off.

    Ray sends no token while RAY_AUTH_MODE is unset. raycol then still sends one that an environment variable gives:
    setting it shows the intent.

    Raises:
        InputError: an unknown mode, or token mode without a valid token.
    """
    mode = environment.get(MODE, "").strip().lower()
    if mode not in ("", "disabled", "token"):
        raise InputError(f"{MODE} is {mode!r}; expected token or disabled")
    if mode == "disabled" or (not mode and not environment.get(TOKEN) and not environment.get(TOKEN_FILE)):
        return {}
    return {"Authorization": f"Bearer {_token(environment)}"}


def _token(environment: Mapping[str, str]) -> str:
    token, source = environment.get(TOKEN, "").strip(), TOKEN
    if not token:
        token_file = environment.get(TOKEN_FILE)
        path = Path(token_file) if token_file else Path(environment.get("HOME") or Path.home()) / _DEFAULT_FILE
        source = str(path)
        try:
            token = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            missing = f"{TOKEN_FILE} names {path}, which does not exist"
            if not token_file:
                missing = f"neither {TOKEN}, {TOKEN_FILE} nor {path} has one"
            raise InputError(f"{MODE} is token, but {missing}; {TOKEN_HINT}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise InputError(f"{path}: the token file cannot be read ({reason}); {TOKEN_HINT}") from None
    if not token:
        raise InputError(f"{source}: an empty token; {TOKEN_HINT}")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InputError(f"{source}: the token has characters that an HTTP header cannot carry; {TOKEN_HINT}")
    return token
