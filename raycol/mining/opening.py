"""Open the workspace of a job: local or in an object store, by its location."""

from __future__ import annotations

import os
from pathlib import Path

from raycol.core.uris import is_uri
from raycol.errors import InputError
from raycol.mining.remote_workspace import RemoteWorkspace, has_result, unfinished_prefixes, workspace_uri
from raycol.mining.workspace import LocalWorkspace, Workspace, sibling_folders
from raycol.storage import open_store


def open_workspace(location: str) -> Workspace:
    """Return the workspace at a folder or URI."""
    return RemoteWorkspace(location) if is_uri(location) else LocalWorkspace(location)


def workspace_for(out: str, fingerprint: str) -> Workspace:
    """Return the workspace of the job that writes `out`; the fingerprint covers all that decides its result."""
    if is_uri(out):
        return RemoteWorkspace(workspace_uri(out, fingerprint))
    final = Path(out).absolute()
    return LocalWorkspace(str(final.parent / f".{final.name}-unfinished-{fingerprint}"))


def unfinished_workspaces(out: str) -> list[Workspace]:
    """Return the workspaces of all unfinished jobs that write `out`."""
    if is_uri(out):
        return [RemoteWorkspace(location) for location in unfinished_prefixes(out)]
    return [LocalWorkspace(str(folder)) for folder in sibling_folders(out, "unfinished")]


def check_new(out: str) -> None:
    """Raise `InputError` if `out` already exists or cannot be written."""
    exists = has_result(out) if is_uri(out) else os.path.lexists(out)
    if exists:
        raise InputError(f"{out}: already exists; choose another folder, or remove it")
    if not is_uri(out):
        open_store(out).check_writable()
