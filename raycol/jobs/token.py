"""The token of a cluster, from where Ray takes it. It is never part of a message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from raycol.errors import InputError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
# Where `ray get-auth-token --generate` puts it, in the home folder.
_USUAL_FILE = Path(".ray", "auth_token")

HOW = f"set {MODE}=token, and {TOKEN} (or {TOKEN_FILE}, a file) to the cluster's token"


def auth_headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that carries the token, or none where authentication is off.

    Ray itself sends no token where RAY_AUTH_MODE is unset. Here a token in the environment is sent even then: it was
    put there to be used.

    Raises:
        InputError: another mode than Ray has, or token mode without a usable token.
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
        named = environment.get(TOKEN_FILE)
        path = Path(named) if named else Path(environment.get("HOME") or Path.home()) / _USUAL_FILE
        source = str(path)
        try:
            token = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            where = f"{TOKEN_FILE} names {path}, which is not there" if named else f"there is none, nor a file {path}"
            raise InputError(f"{MODE} is token, and {where}; {HOW}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise InputError(f"{path}: the token in it cannot be read ({reason}); {HOW}") from None
    if not token:
        raise InputError(f"{source}: an empty token; {HOW}")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InputError(f"{source}: the token in it has white space or other signs that no header can carry; {HOW}")
    return token
