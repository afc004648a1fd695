"""A griffe extension that documents the arguments of `raycol.verbs`, as `raycol.verbs.arguments.documented` does.

It reads the source only, so the site is built without importing raycol, Ray and torch.
"""

from typing import Any

import griffe


class Settings(griffe.Extension):
    """Append the help of a configuration's fields to the docstring of the verb that is decorated with it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Document every verb once the package and its aliases are loaded."""
        for module in pkg["verbs"].modules.values():
            for function in module.functions.values():
                for decorator in function.decorators:
                    if decorator.callable_path.endswith(".documented"):
                        _document(function, pkg.modules_collection[module.resolve(str(decorator.value.arguments[0]))])


def _document(function: griffe.Function, config: griffe.Class) -> None:
    doc, fields = function.docstring.value, config.all_members
    lines = [
        f"    {name}: {' '.join(fields[name].docstring.value.split())}"
        for name in (parameter.name for parameter in function.parameters)
        if name in fields and fields[name].docstring and f"    {name}:" not in doc
    ]
    function.docstring.value = "\n".join([doc, *([] if "Args:" in doc else ["", "Args:"]), *lines])
