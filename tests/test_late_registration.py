"""Importing the package costs nothing, and transformers knows SLAP all the same, whichever is imported first."""

import json
import subprocess
import sys

import pytest

from hf_slap import late_registration

FIRST = """
import sys, hf_slap
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
from hf_slap import SlapConfig
from transformers import AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY
models = [AutoModel.from_pretrained(sys.argv[1], **trust) for trust in ({}, {"trust_remote_code": True})]
processor = AutoProcessor.from_pretrained(sys.argv[1])
print([type(one).__module__ + "." + type(one).__name__ for one in (*models, processor)])
print("audio-captioning" in PIPELINE_REGISTRY.supported_tasks)
print(any("late_registration" in type(finder).__module__ for finder in sys.meta_path))
"""


def test_imported_first_it_is_known_to_the_auto_classes_once_they_are_there(tiny_folder):
    done = subprocess.run([sys.executable, "-c", FIRST, str(tiny_folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, processor = "hf_slap.modeling.modeling_slap.SlapModel", "hf_slap.modeling.processing_slap.SlapProcessor"
    assert done.stdout.splitlines()[-3:] == [str([model, model, processor]), "True", "False"]


def test_imported_after_the_auto_classes_it_registers_at_once(monkeypatch):
    import transformers.models.auto.configuration_auto  # noqa: F401

    calls, finders = [], list(sys.meta_path)
    monkeypatch.setattr(late_registration, "_register", lambda: calls.append(1))
    late_registration.register_when_needed()
    assert calls == [1] and sys.meta_path == finders


def test_nothing_is_registered_before_the_outermost_import_is_over(monkeypatch, tmp_path):
    """Two modules in a circle; the inner one brings what is waited for."""
    package = tmp_path / "circle"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "outer.py").write_text("from . import inner\ndone = True\n")
    (package / "inner.py").write_text("from . import outer\nassert not hasattr(outer, 'done')\n")
    seen = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(late_registration, "_WATCHED", ("circle.",))
    monkeypatch.setattr(late_registration, "_AUTO", "circle.inner")
    monkeypatch.setattr(late_registration, "_register", lambda: seen.append(sys.modules["circle.outer"].done))
    late_registration.register_when_needed()
    late_registration.register_when_needed()  # one watch is enough
    assert [type(finder).__name__ for finder in sys.meta_path].count("_Watch") == 1
    import circle.outer  # noqa: F401

    assert seen == [True] and "_Watch" not in [type(finder).__name__ for finder in sys.meta_path]


def test_names_are_found_on_first_use_and_wrong_ones_are_refused():
    import hf_slap

    assert set(hf_slap.__all__) <= set(dir(hf_slap))
    assert all(getattr(hf_slap, name) is not None for name in hf_slap.__all__)
    assert hf_slap.data.__name__ == "hf_slap.data"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_slap.nothing


def test_editors_are_told_the_same_names():
    import ast
    from pathlib import Path

    import hf_slap

    tree = ast.parse(Path(hf_slap.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {node.module: sorted(alias.name for alias in node.names) for node in block.body}
    assert json.dumps(told, sort_keys=True) == json.dumps(
        {m: sorted(n) for m, n in hf_slap._MODULES.items()}, sort_keys=True
    )
