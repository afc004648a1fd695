"""Writers of an index: create, append, upsert, delete, compact, vacuum; verify."""
