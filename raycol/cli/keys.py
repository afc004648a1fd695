"""`raycol key ...`: the API keys of an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycol.cli.output import Output, with_json
from raycol.cli.usage import CommandGroup
from raycol.core.escaping import echo
from raycol.serving.keys import Key, new_key, read_keys, revoke_key

key_app = typer.Typer(help="Create, revoke and list API keys of an endpoint.", cls=CommandGroup, rich_markup_mode=None)

FileArgument = Annotated[Path, typer.Argument(help="File with the hashes of the keys.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(help="Name of the key.", show_default=False)]


@key_app.command("add")
def add(
    file: FileArgument,
    name: NameArgument,
    scope: Annotated[
        str, typer.Option(metavar="read|admin", help="Permissions of the key; admin may change the served version.")
    ] = "read",
) -> None:
    """Create a key and print it. The file stores only its hash; running endpoints accept the key."""
    echo(new_key(file, name, scope))
    echo(f"This is the only time that the key is shown; {file} stores only its hash.", err=True)


@key_app.command("revoke")
def revoke(file: FileArgument, name: NameArgument) -> None:
    """Remove a key. Running endpoints stop accepting it."""
    revoke_key(file, name)
    echo(f"{file}: key {name} revoked")


@key_app.command("list")
@with_json
def list_keys(file: FileArgument) -> Output:
    """Print the name, scope and creation time of each key."""
    keys = read_keys(file).keys
    return Output([key.model_dump(exclude={"sha256"}) for key in keys], lambda _: _show(keys))


def _show(keys: tuple[Key, ...]) -> None:
    width = max(len(key.name) for key in keys)
    for key in keys:
        echo(f"{key.name:{width}}  {key.scope:5}  {key.created:%Y-%m-%dT%H:%M:%S%z}")
