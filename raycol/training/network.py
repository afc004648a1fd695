"""Rendezvous of training workers across hosts."""

from __future__ import annotations

import os
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from torch.distributed import TCPStore

_INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
# Listen backlog of the rendezvous store: every worker opens a few connections.
_BACKLOG = 4096

# The rendezvous store of this process's group; kept alive because its destructor closes the listening socket.
_stores: list[TCPStore] = []


class NodeAddressTorchConfig(TorchConfig):  # type: ignore[misc]
    """A process group whose workers listen on their Ray node's address.

    By default Gloo binds to the hostname's address, which many systems resolve to loopback, where workers of other
    nodes cannot connect; `GLOO_SOCKET_IFNAME` still wins if it is set. The rendezvous store accepts writes from any
    client and by default listens on all addresses of the host; here it listens on the node's address only.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See `TorchConfig`."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """As in Ray Train, except for the address that the rendezvous store listens on."""
        import ray

        worker_group.execute(_set_interface)
        address, port = worker_group.execute_single(0, serve_store)
        worker_group.execute(_set_store_address, address, port)
        worker_group.execute(_set_torch_distributed_env_vars)
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend or ("nccl" if on_gpus else "gloo"),
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method="env://",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )


def serve_store(address: str | None = None) -> tuple[str, int]:
    """Start a rendezvous store on one address, by default this node's; return the address and the port."""
    import ray

    address = address or str(ray.util.get_node_ip_address())
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen(_BACKLOG)
        port = int(listener.getsockname()[1])
        store = TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    _stores[:] = [store]
    return address, port


def _set_store_address(address: str, port: int) -> None:
    """Make this worker connect to the running store instead of starting one."""
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(True)}


def _set_interface() -> None:
    import ray

    name = interface_name(ray.util.get_node_ip_address())
    if name:
        os.environ.setdefault(_INTERFACE_VARIABLE, name)


def interface_name(address: str) -> str | None:
    """Name of this host's network interface that has an address; None if no interface has it."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family in (socket.AF_INET, socket.AF_INET6) and one.address == address for one in addresses):
            return str(name)
    return None
