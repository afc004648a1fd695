import pytest

from raycol.distributed.session import _free_ports, check_socket_folder, ray_errors, ray_session
from raycol.errors import InputError, RaycolError


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_what_the_cluster_does_not_have_is_refused_rather_than_waited_for() -> None:
    for needs, name in (({"CPU": 10_000}, "CPU"), ({"GPU": 9}, "GPU"), ({"memory": 1e18}, "memory")):
        with pytest.raises(InputError, match=f"of the resource {name} here and this needs"), ray_session(**needs):
            pass


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_an_error_of_ours_comes_back_from_a_worker_as_itself() -> None:
    import ray

    @ray.remote(num_cpus=0)
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(InputError, match=r"^a bad record$"), ray_errors("the work"):
        ray.get(fail.remote(InputError("a bad record")))
    with pytest.raises(RaycolError, match=r"^the work failed: .*no such key") as failed, ray_errors("the work"):
        ray.get(fail.remote(KeyError("no such key")))
    assert not isinstance(failed.value, InputError)


def test_of_an_error_of_many_lines_the_first_is_told() -> None:
    """Ray writes its advice, and how often it tried, below."""
    with pytest.raises(RaycolError, match=r"^the work failed: ValueError: no room$"), ray_errors("the work"):
        raise ValueError("no room\nFailed after 1/1 attempts.\nTo change retry attempts, configure something")


def test_an_error_without_a_message_is_still_told() -> None:
    with pytest.raises(RaycolError, match="the work failed: ValueError"), ray_errors("the work"):
        raise ValueError


def test_an_error_of_the_controller_of_training_tells_its_cause() -> None:
    from ray.train import ControllerError

    with pytest.raises(RaycolError, match=r"^training failed: TimeoutError: no worker came$"), ray_errors("training"):
        raise ControllerError(TimeoutError("no worker came"))
    with pytest.raises(InputError, match=r"^a bad record$"), ray_errors("training"):
        raise ControllerError(InputError("a bad record"))


@pytest.mark.sockets
@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}", "no-such-host.invalid:{}"])
def test_a_cluster_that_is_not_there_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Ray itself would try for a quarter of an hour."""
    import ray

    def init(**settings: object) -> None:
        raise AssertionError("Ray was asked to connect")

    (port,) = _free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"^RAY_ADDRESS is '.*unset it") as failed, ray_session():
        pass
    assert "asked" not in str(failed.value)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_sockets_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "/tmp/" + "x" * 40)
    with pytest.raises(InputError, match=rf"^{name} is '/tmp/x.*set RAY_TMPDIR"):
        check_socket_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_socket_folder()


@pytest.mark.sockets
def test_a_node_that_starts_slowly_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    started: list[dict] = []

    def init(**settings: object) -> None:
        started.append(settings)
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RaycolError, match=r"cannot be started here: .*timed out.*try again"), ray_session():
        pass
    assert len(started) == 2


@pytest.mark.sockets
def test_ports_that_are_free_are_different_ones() -> None:
    assert len(set(_free_ports(20))) == 20
