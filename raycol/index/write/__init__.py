"""New versions of an index: create, change, compact, vacuum, verify."""
