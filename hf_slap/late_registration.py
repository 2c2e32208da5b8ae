"""Registers SLAP with transformers as soon as its Auto classes are there: at once, or after their import.

So `import hf_slap` takes no time of its own, and `AutoModel` knows SLAP whichever package is imported first.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto.configuration_auto"  # imported by every Auto class and by `pipeline`
_WATCHED = ("transformers.", "hf_slap.modeling.")


def register_when_needed() -> None:
    """Registers now, if transformers' Auto classes are loaded; else after the import that loads them."""
    if _AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    from .registration import register

    register()


class _Watch:
    """Of the finders that Python asks for each import: finds nothing itself, but sees when an import is over.

    Modules of transformers import one another in circles, so that nothing may be imported from them before the
    outermost import has ended.
    """

    def __init__(self) -> None:
        self._thread = threading.local()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_WATCHED):
            return None
        others = (finder.find_spec for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (find(name, path, target) for find in others)), None)
        if hasattr(getattr(spec, "loader", None), "exec_module"):
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module  # the loader's own again
            self._thread.depth = getattr(self._thread, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self._thread.depth -= 1
            if self._thread.depth == 0 and _AUTO in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = execute_and_register
