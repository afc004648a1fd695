"""Training workers listen on their node's address."""

import psutil
import pytest
from torch.distributed import TCPStore

from raycol.training.network import interface_name, serve_store


def test_the_interface_of_loopback() -> None:
    name = interface_name("127.0.0.1")
    assert name is not None
    assert any(one.address == "127.0.0.1" for one in psutil.net_if_addrs()[name])


def test_another_hosts_address_has_no_interface() -> None:
    assert interface_name("192.0.2.1") is None


@pytest.mark.sockets
def test_the_store_listens_on_one_address() -> None:
    address, port = serve_store("127.0.0.1")
    client = TCPStore(address, port, is_master=False)
    client.set("a", "b")
    assert client.get("a") == b"b"
    listens = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [local.ip for local in listens if local.port == port] == [address]
