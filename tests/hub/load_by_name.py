"""Loads what was published, by name, where hf_slap cannot be imported. Prints JSON.

    python -I -S load_by_name.py USE_FOLDER CLIP... --paths PATH...

USE_FOLDER is hf_slap's use_folder.py, as a file; PATHs are what would be on sys.path if this project were not installed.
"""

import importlib.util
import json
import os
import sys


def main(use_folder: str, clips: list[str], paths: list[str]):
    sys.path += paths
    if importlib.util.find_spec("hf_slap"):
        sys.exit("hf_slap can be imported, so this shows nothing; install it with `pip install -e .`")
    spec = importlib.util.spec_from_file_location("use_folder", use_folder)
    use = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(use)
    said = {"refusal": use.refusal("org/slap"), "org/slap": use.all_outputs("org/slap", clips, True)}
    for name in ("org/secret", "org/adapter"):
        said[name] = use.all_outputs(name, clips[:1], True, use.TASKS[:1])
    said["org/slap, v1"] = use.all_outputs("org/slap", clips[:1], True, use.TASKS[:1], revision="v1")
    from huggingface_hub import hf_hub_download

    said["readme"] = {
        revision: open(hf_hub_download("org/slap", "README.md", revision=revision)).read()
        for revision in ("v1", "main", "dev")
    }
    os.environ.pop("HF_TOKEN")
    try:
        hf_hub_download("org/secret", "config.json", token=False, force_download=True)
    except Exception as error:
        said["stranger"] = f"{type(error).__name__}: {error}"
    print(json.dumps(said))


if __name__ == "__main__":
    where = sys.argv.index("--paths")
    main(sys.argv[1], sys.argv[2:where], sys.argv[where + 1 :])
