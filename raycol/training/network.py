"""How workers of a training find each other across hosts."""

from __future__ import annotations

import os
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_VARIABLE = "GLOO_SOCKET_IFNAME"


class Connected(TorchConfig):  # type: ignore[misc]
    """A process group whose workers listen where Ray knows their nodes.

    Gloo takes the address of the host's own name, which many a system resolves to the loopback: workers of other nodes
    cannot reach that. A variable that is set already wins.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `TorchConfig`."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name:
        os.environ.setdefault(_VARIABLE, name)


def interface_of(address: str) -> str | None:
    """The name of this host's network interface that has an address; None where there is none."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family in (socket.AF_INET, socket.AF_INET6) and one.address == address for one in addresses):
            return str(name)
    return None
