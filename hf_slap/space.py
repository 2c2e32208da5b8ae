"""A folder that is a Space: the page, this package and the model, ready for `git push` or `hf upload`."""

import os
import shutil
import sys
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from . import modeling

_PACKAGE = Path(__file__).parent
_README = """---
title: {title}
emoji: 🔊
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: apache-2.0
{models}---

# {title}

Drop a sound or record one: which labels fit, a caption, and what happens when. The model is {model}. Made by
`slap app --space` of hf_slap {version}, whose code lies beside it.
"""
_APP = '''"""The page of a SLAP model."""

from pathlib import Path

from hf_slap.app import build_page, serve

serve(build_page({model}))
'''
_LARGE = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("safetensors", "ogg"))


def make_space(folder: str | os.PathLike, model: str | None = None, title: str = "SLAP") -> list[str]:
    """Writes the folder of a Space.

    Args:
        folder: new or empty.
        model: a folder, which is copied; a Hub id, which the Space downloads; None: the model that comes with this
            package.
        title: of the Space.
    Returns:
        the files at its top.
    Raises:
        ValueError: the folder holds something.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{str(folder)!r} is not empty; a Space is made in a new folder")
    is_folder = model is not None and os.path.isdir(model)
    _copy_code(folder / "hf_slap", with_model=model is None)
    if is_folder:
        shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns(".*", "checkpoints"))
    place: Any = f'str(Path(__file__).with_name("model")), name={title!r}' if is_folder else repr(model)
    names = {
        "title": title,
        "gradio": version("gradio"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "models": f"models:\n- {model}\n" if model and not is_folder else "",
        "model": "in `model/`"
        if is_folder
        else f"[{model}](https://huggingface.co/{model})"
        if model
        else "`slap-nano`",
        "version": version("hf_slap"),
    }
    (folder / "README.md").write_text(_README.format(**names), encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(model=place), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")
    (folder / ".gitattributes").write_text(_LARGE, encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def _copy_code(target: Path, with_model: bool) -> None:
    """This package as it is installed, also where modeling/ lies elsewhere."""
    ignored = shutil.ignore_patterns("__pycache__", "examples", *([] if with_model else ["slap-nano"]))
    shutil.copytree(_PACKAGE, target, ignore=ignored)
    shutil.copytree(Path(modeling.__file__).parent, target / "modeling", ignore=ignored, dirs_exist_ok=True)


def _requirements() -> list[str]:
    """What the page needs besides gradio, which the Space brings."""
    needed = requires("hf_slap") or []
    return [line for line in needed if "extra ==" not in line] + ["matplotlib"]
