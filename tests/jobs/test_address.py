import pytest

from raycol.errors import InputError
from raycol.jobs.address import dashboard_address


def test_the_option_overrides_the_environment_and_the_first_variable_the_second() -> None:
    environment = {"RAY_API_SERVER_ADDRESS": "http://one:8265", "RAY_ADDRESS": "http://two:8265"}
    assert dashboard_address("HTTPS://head:8265/ray/", environment) == "https://head:8265/ray"
    assert dashboard_address(None, environment) == "http://one:8265"
    assert dashboard_address(None, {"RAY_ADDRESS": "http://two:8265"}) == "http://two:8265"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (None, "no cluster to submit to: pass --address"),
        ("", "no cluster to submit to"),
        ("auto", "--address is 'auto'; expected the address of the cluster's dashboard"),
        ("head:6379", "--address is 'head:6379'; expected"),
        ("ray://head:10001", "--address is 'ray://head:10001'; expected"),
        ("http://", "--address is 'http://'; expected"),
        ("http://head:99999", "--address is 'http://head:99999', not a URL"),
        ("http://[::1", "not a URL"),
        ("http://head:8265?a=b", "with a query"),
        ("http://user:secret@head:8265", "credentials in a URL"),
        ("http://user:secret@head:port", "an address with an @, not a URL"),
    ],
)
def test_an_invalid_address_is_refused_without_showing_secrets(option: str | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        dashboard_address(option, {})
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_an_invalid_variable_is_named() -> None:
    with pytest.raises(InputError, match=r"RAY_ADDRESS is '127\.0\.0\.1:6379'; expected"):
        dashboard_address(None, {"RAY_ADDRESS": "127.0.0.1:6379"})
