"""Runs the code of docs/from-pylate.md, in the tests' Python or, as a script, in one that has PyLate.

    python document_rows.py < REQUEST > ANSWER

REQUEST is JSON: a list of [name, code] pairs. ANSWER has an outcome for each: {"value": ...} of the last line if it
is an expression, or {"error": type, "message": ...}. All code shares its names, as the cells of a notebook do.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import traceback
from collections.abc import Iterable
from typing import Any


def run(code_by_name: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Run each piece of code, whatever became of the others; return its outcome."""
    names: dict[str, Any] = {}
    outcomes = {}
    for name, code in code_by_name:
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            exec(compile(tree, name, "exec"), names)
            value = eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None
            outcomes[name] = {"value": plain(value)}
        except Exception as error:
            outcomes[name] = {"error": type(error).__name__, "message": traceback.format_exc()}
    return outcomes


def plain(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, hits as their id and score, others as their type's name."""
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "score") and hasattr(value, "id"):
        return {"id": value.id, "score": value.score}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return float(value) if isinstance(value, int | float) else type(value).__name__


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answer = run(json.load(sys.stdin))
    json.dump(answer, sys.stdout)
