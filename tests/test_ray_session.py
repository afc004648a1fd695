"""Ray sessions: capacity, errors from workers, and how they start."""

import pytest

from raycol.distributed.session import _free_ports, check_socket_folder, ray_errors, ray_session
from raycol.errors import InputError, RaycolError


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_resources_that_the_cluster_lacks_are_refused_at_once() -> None:
    for needs, name in (({"CPU": 10_000}, "CPU"), ({"GPU": 9}, "GPU"), ({"memory": 1e18}, "memory")):
        with pytest.raises(InputError, match=f"the Ray cluster has .* {name}, the workers need"), ray_session(**needs):
            pass


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_raycol_error_in_a_worker_is_raised_unchanged() -> None:
    import ray

    @ray.remote(num_cpus=0)
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(InputError, match=r"^a bad record$"), ray_errors("the work"):
        ray.get(fail.remote(InputError("a bad record")))
    with pytest.raises(RaycolError, match=r"^the work failed: .*no such key") as failed, ray_errors("the work"):
        ray.get(fail.remote(KeyError("no such key")))
    assert not isinstance(failed.value, InputError)


def test_only_the_first_line_of_an_error_is_reported() -> None:
    """Ray appends the number of attempts and advice."""
    with pytest.raises(RaycolError, match=r"^the work failed: ValueError: out of memory$"), ray_errors("the work"):
        raise ValueError("out of memory\nFailed after 1/1 attempts.\nTo change retry attempts, configure something")


def test_an_error_without_a_message_is_reported_by_type() -> None:
    with pytest.raises(RaycolError, match="the work failed: ValueError"), ray_errors("the work"):
        raise ValueError


def test_an_error_of_the_train_controller_reports_its_cause() -> None:
    from ray.train import ControllerError

    with pytest.raises(RaycolError, match=r"^training failed: TimeoutError: no worker came$"), ray_errors("training"):
        raise ControllerError(TimeoutError("no worker came"))
    with pytest.raises(InputError, match=r"^a bad record$"), ray_errors("training"):
        raise ControllerError(InputError("a bad record"))


@pytest.mark.sockets
@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}", "no-such-host.invalid:{}"])
def test_an_unreachable_cluster_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Ray itself would retry for a quarter of an hour."""
    import ray

    def init(**settings: object) -> None:
        raise AssertionError("ray.init was called")

    (port,) = _free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"^RAY_ADDRESS is '.*unset it") as failed, ray_session():
        pass
    assert "was called" not in str(failed.value)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "/tmp/" + "x" * 40)
    with pytest.raises(InputError, match=rf"^{name} is '/tmp/x.*set RAY_TMPDIR"):
        check_socket_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_socket_folder()


@pytest.mark.sockets
def test_a_node_that_times_out_is_started_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    started: list[dict] = []

    def init(**settings: object) -> None:
        started.append(settings)
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RaycolError, match=r"cannot start Ray on this machine: .*timed out.*try again"), ray_session():
        pass
    assert len(started) == 2


@pytest.mark.sockets
def test_free_ports_are_distinct() -> None:
    assert len(set(_free_ports(20))) == 20
