"""Workers of a training listen where their node's address is."""

import psutil
import pytest
from torch.distributed import TCPStore

from raycol.training.network import interface_name, serve_store


def test_the_loopback_has_its_own() -> None:
    found = interface_name("127.0.0.1")
    assert found is not None
    assert any(one.address == "127.0.0.1" for one in psutil.net_if_addrs()[found])


def test_an_address_of_another_host_has_none() -> None:
    assert interface_name("192.0.2.1") is None


@pytest.mark.sockets
def test_the_store_listens_on_one_address() -> None:
    address, port = serve_store("127.0.0.1")
    client = TCPStore(address, port, is_master=False)
    client.set("a", "b")
    assert client.get("a") == b"b"
    listens = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [where.ip for where in listens if where.port == port] == [address]
