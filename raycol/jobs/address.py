"""The address of a cluster's dashboard, from --address or from Ray's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from raycol.errors import InputError

# In the order in which Ray's client reads them. In Ray they override even an explicit address.
FROM_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

_EXPECTED = "expected the address of the cluster's dashboard, such as http://HEAD:8265"


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
