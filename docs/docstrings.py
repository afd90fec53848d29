"""An extension of Griffe, which reads the docstrings for the site."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Reads `Example:` as Griffe reads `Examples:`; it would take the prompts for quotations."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self.on_object(obj=pkg)
