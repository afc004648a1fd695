"""Where a cluster takes jobs: its dashboard's address, from an option or from what Ray reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from raycol.errors import InputError

# As Ray's own client reads them, the first one first; there, they win even over an address that was given.
FROM_ENVIRONMENT = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

_EXPECTED = "expected the address of the cluster's dashboard, such as http://HEAD:8265"


def is_dashboard(address: str) -> bool:
    """Whether an address is one of HTTP, and no address that a process of the cluster itself connects to."""
    return address.lower().startswith(("http://", "https://"))


def dashboard_address(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The address to submit to: the one given, else the environment's. Raises `InputError` where it is none."""
    source, address = "--address", given
    for name in FROM_ENVIRONMENT:
        if not address:
            source, address = name, environment.get(name)
    if not address:
        raise InputError(f"no cluster to submit to: pass --address, or set {FROM_ENVIRONMENT[0]}; {_EXPECTED}")
    try:
        parts = urlsplit(address)
        port = parts.port  # checked when it is asked for
    except ValueError:
        shown = "an address with an @" if "@" in address else repr(address)
        raise InputError(f"{source} is {shown}, which is no URL; {_EXPECTED}") from None
    if parts.username or parts.password:
        raise InputError(f"{source}: credentials in a URL; a token goes into RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token")
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{source} is {address!r}; {_EXPECTED}")
    if parts.query or parts.fragment:
        raise InputError(f"{source} is {address!r}, with a query or a fragment; {_EXPECTED}")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/')}"
