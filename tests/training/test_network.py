"""Workers of a training listen where their node's address is."""

import psutil

from raycol.training.network import interface_of


def test_the_loopback_has_its_own() -> None:
    found = interface_of("127.0.0.1")
    assert found is not None
    assert any(one.address == "127.0.0.1" for one in psutil.net_if_addrs()[found])


def test_an_address_of_another_host_has_none() -> None:
    assert interface_of("192.0.2.1") is None
