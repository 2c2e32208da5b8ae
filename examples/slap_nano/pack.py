"""A folder as slap-nano ships: weights in float16, without the code beside them, which hf_slap has.

python examples/slap_nano/pack.py runs/slap-nano-text/model hf_slap/bundled/slap-nano \\
    --first runs/slap-nano-on/model --share 0.6 --scale 15

With --first, weights are a mean of both: what the last run learned of its words, without losing what the one before
knew of words that no clip carries (Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
--scale sets the multiplier of the similarities: a run that hears its clips almost as they are grows too sure of itself.
"""

import argparse
import json
import math
from pathlib import Path

from safetensors.torch import load_file, save_file

# Keys that name code beside the weights, that are left from the machine that trained, and from its last batch.
_LEFT_OUT = ("auto_map", "custom_pipelines", "is_local", "local_files_only")
_EMPTIED = ("truncation", "padding")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that a run exported")
    parser.add_argument("folder", type=Path, help="where to; CREDITS.md comes from examples/slap_nano/prepare.py")
    parser.add_argument("--first", type=Path, help="folder of the model that it started from")
    parser.add_argument("--share", type=float, default=0.5, help="of `model` in the mean")
    parser.add_argument("--scale", type=float, help="multiplier of the similarities; default: as trained")
    parsed = parser.parse_args(arguments)
    parsed.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(parsed.model.iterdir()):
        if path.suffix == ".json":
            content = json.loads(path.read_text(), object_hook=_for_everyone)
            (parsed.folder / path.name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    weights = load_file(parsed.model / "model.safetensors")
    if parsed.first:
        before = load_file(parsed.first / "model.safetensors")
        weights = {name: before[name].lerp(weight, parsed.share) for name, weight in weights.items()}
    if parsed.scale:
        weights["slap.logit_scale"].fill_(math.log(parsed.scale))
    half = {name: weight.half() for name, weight in weights.items()}
    save_file(half, parsed.folder / "model.safetensors", metadata={"format": "pt"})
    size = sum(path.stat().st_size for path in parsed.folder.iterdir())
    print(f"{parsed.folder}: {size / 1e6:.1f} MB")


def _for_everyone(content: dict) -> dict:
    kept = {key: value for key, value in content.items() if key not in _LEFT_OUT}
    return {key: None if key in _EMPTIED and isinstance(value, dict) else value for key, value in kept.items()}


if __name__ == "__main__":
    main()
