"""The command line is built once for all tests; `raycol` builds its hundreds of options at every start."""

import functools
from collections.abc import Iterator

import pytest
import typer.main


@pytest.fixture(scope="package", autouse=True)
def _one_command_line() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield
