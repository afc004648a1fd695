import pytest

from raycol.errors import InputError, RaycolError
from raycol.ray_session import _free_ports, ray_errors, ray_session


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
def test_ports_that_are_free_are_different_ones() -> None:
    assert len(set(_free_ports(20))) == 20
