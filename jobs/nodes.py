"""Have an autoscaling cluster start nodes before a job that needs them, and keep them until told otherwise.

    ray job submit --working-dir . -- python jobs/nodes.py 64 --resources CPU=1,spot=1
    ray job submit --working-dir . -- python jobs/nodes.py 0

The first returns once there is room for 64 workers of that kind. The long verbs refuse at once what a cluster has no
room for, and do not wait for nodes that an autoscaler may add. The second withdraws the request: idle nodes are given
back after the cluster's idle timeout. Until then they are kept, lost ones are replaced, and all are paid for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import ray
import typer
from pydantic import TypeAdapter, ValidationError
from ray.autoscaler.sdk import request_resources

from raycol.config import Resources

_LOOK_S = 5.0


def main(
    workers: Annotated[int, typer.Argument(min=0, help="How many; 0 withdraws the request.")],
    resources: Annotated[str, typer.Option(help="What each needs, as for raycol index build.")] = "CPU=1",
    timeout_s: Annotated[float, typer.Option(help="How long to wait for the nodes.")] = 1800.0,
) -> None:
    """Ask for room for so many workers, and wait until it is there."""
    try:
        each = TypeAdapter(Resources).validate_python(resources)
    except ValidationError as error:
        raise typer.BadParameter(f"{resources}: {error.errors()[0]['msg']}", param_hint="--resources") from None
    ray.init()
    request_resources(bundles=[each] * workers)
    deadline = time.monotonic() + timeout_s
    while missing := lacking(ray.cluster_resources(), each, workers):
        if time.monotonic() > deadline:
            typer.echo(f"error: no room after {timeout_s:g} s; lacking {missing}. It stays asked for", err=True)
            raise typer.Exit(1)
        typer.echo(f"waiting for nodes; lacking {missing}")
        time.sleep(_LOOK_S)
    typer.echo(f"there is room for {workers} workers of {resources}" if workers else "nothing is asked for any more")


def lacking(have: Mapping[str, float], each: Mapping[str, float], workers: int) -> dict[str, float]:
    """What the cluster has too little of, and how much more that many workers need."""
    short = {name: amount * workers - have.get(name, 0.0) for name, amount in each.items()}
    return {name: amount for name, amount in short.items() if amount > 0}


if __name__ == "__main__":
    typer.run(main)
