"""How workers of a training find each other across hosts."""

from __future__ import annotations

import os
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from torch.distributed import TCPStore

_VARIABLE = "GLOO_SOCKET_IFNAME"
# Connections that wait until the store accepts them: each worker makes a few.
_BACKLOG = 4096

# The store of a process's group. What it listens on is closed with it.
_stores: list[TCPStore] = []


class Connected(TorchConfig):  # type: ignore[misc]
    """A process group whose workers listen where Ray knows their nodes.

    Gloo takes the address of the host's own name, which many a system resolves to the loopback: workers of other nodes
    cannot reach that. A variable that is set already wins. The store by which workers find each other, to which anyone
    who reaches it can write, listens on all of a host's addresses otherwise.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `TorchConfig`."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """As Ray Train does it, but for the address that the store listens on."""
        import ray

        worker_group.execute(_choose_interface)
        address, port = worker_group.execute_single(0, serve_store)
        worker_group.execute(_name_store, address, port)
        worker_group.execute(_set_torch_distributed_env_vars)
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        ray.get(
            [
                worker_group.execute_single_async(
                    number,
                    _setup_torch_process_group,
                    backend=backend_config.backend or ("nccl" if on_gpus else "gloo"),
                    world_rank=number,
                    world_size=len(worker_group),
                    init_method="env://",
                    timeout_s=backend_config.timeout_s,
                )
                for number in range(len(worker_group))
            ]
        )


def serve_store(address: str | None = None) -> tuple[str, int]:
    """Start a store that listens on one address only, by default this node's; return the address and its port."""
    import ray

    address = address or str(ray.util.get_node_ip_address())
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen(_BACKLOG)
        port = int(listener.getsockname()[1])
        store = TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    _stores[:] = [store]
    return address, port


def _name_store(address: str, port: int) -> None:
    """Have this worker connect to a store that is there, and start none."""
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(True)}


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
