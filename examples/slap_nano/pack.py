"""A folder as slap-nano ships: weights in float16, without the code beside them, which hf_slap has.

python examples/slap_nano/pack.py runs/slap-nano-soup runs/slap-nano-{11,12,13}/model

Of several models, weights are their mean: of seeds that went on from one model (Wortsman et al. 2022, Model soups), or
of a model and what it was fine-tuned to, so that little is lost of what it knew (by the same, Robust fine-tuning of
zero-shot models).
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
    parser.add_argument("folder", type=Path, help="where to; CREDITS.md comes from examples/slap_nano/prepare.py")
    parser.add_argument("models", type=Path, nargs="+", help="folders that runs exported; the last gives the rest")
    parser.add_argument("--shares", type=float, nargs="+", help="of each in the mean; default: equal ones")
    parser.add_argument("--scale", type=float, help="multiplier of the similarities; default: as trained")
    parsed = parser.parse_args(arguments)
    shares = parsed.shares or [1 / len(parsed.models)] * len(parsed.models)
    if len(shares) != len(parsed.models) or not math.isclose(sum(shares), 1):
        parser.error(f"--shares {shares}: {len(parsed.models)} models need as many shares, of 1 together")
    weights = {}
    for model, share in zip(parsed.models, shares, strict=True):
        for name, weight in load_file(model / "model.safetensors").items():
            weights[name] = weights.get(name, 0) + share * weight.double()
    if parsed.scale:
        weights["slap.logit_scale"].fill_(math.log(parsed.scale))

    parsed.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(parsed.models[-1].iterdir()):
        if path.suffix == ".json":
            content = json.loads(path.read_text(), object_hook=_for_everyone)
            (parsed.folder / path.name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    half = {name: weight.half() for name, weight in weights.items()}
    save_file(half, parsed.folder / "model.safetensors", metadata={"format": "pt"})
    size = sum(path.stat().st_size for path in parsed.folder.iterdir())
    print(f"{parsed.folder}: {size / 1e6:.1f} MB")


def _for_everyone(content: dict) -> dict:
    kept = {key: value for key, value in content.items() if key not in _LEFT_OUT}
    return {key: None if key in _EMPTIED and isinstance(value, dict) else value for key, value in kept.items()}


if __name__ == "__main__":
    main()
