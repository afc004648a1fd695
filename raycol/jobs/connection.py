"""How to reach a cluster: its dashboard's address and its token, from options and from Ray's environment variables.

Messages never contain the token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from raycol.errors import InputError

# In the order in which Ray's client reads them. In Ray they override even an explicit address.
FROM_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

_EXPECTED = "expected the address of the cluster's dashboard, such as http://HEAD:8265"

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105
TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
# Written by `ray get-auth-token --generate`, in the home folder.
_DEFAULT_FILE = Path(".ray", "auth_token")
_MAX_TOKEN_CHARS = 1 << 16

TOKEN_HINT = f"set {MODE}=token, and {TOKEN} (or {TOKEN_FILE}, a file) to the cluster's token"


def is_dashboard(address: str) -> bool:
    """Whether an address is an HTTP URL (a dashboard) and not one that Ray processes connect to (HOST:6379)."""
    return address.lower().startswith(("http://", "https://"))


def dashboard_address(option: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the dashboard's address: --address, else the environment's. Raises `InputError` if it is invalid."""
    source, address = "--address", option
    for name in FROM_ENVIRONMENT:
        if not address:
            source, address = name, environment.get(name)
    if not address:
        raise InputError(f"no cluster to submit to: pass --address, or set {FROM_ENVIRONMENT[0]}; {_EXPECTED}")
    try:
        parts = urlsplit(address)
        port = parts.port  # urllib checks it on access
    except ValueError:
        shown = "an address with an @" if "@" in address else repr(address)
        raise InputError(f"{source} is {shown}, not a URL; {_EXPECTED}") from None
    if parts.username or parts.password:
        raise InputError(f"{source}: credentials in a URL; pass a token in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token")
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{source} is {address!r}; {_EXPECTED}")
    if parts.query or parts.fragment:
        raise InputError(f"{source} is {address!r}, with a query or a fragment; {_EXPECTED}")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"


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
            with path.open(encoding="utf-8") as file:
                token = file.read(_MAX_TOKEN_CHARS).strip()
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
