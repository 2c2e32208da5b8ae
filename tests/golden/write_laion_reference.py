"""Writes laion_reference.json and laion_reference.npz: what laion_clap 1.1.7 says with random weights in its own format.

Run it where laion_clap and torchaudio are installed, on CPU (its package wants numpy 1 and transformers 4, so it has its
own environment):

    python tests/golden/write_laion_reference.py
"""

import json
import platform
import sys
import tempfile
from importlib.machinery import ModuleSpec
from importlib.metadata import version as installed
from pathlib import Path
from unittest.mock import MagicMock

import clap_checkpoints as given
import numpy as np
import soundfile
import torch
import transformers

SMALL = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [2, 2, 4, 4]}
SMALL_TEXT = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 64}


def stand_in(name: str):
    """A module that laion_clap imports and does not need for embeddings."""
    module = MagicMock(name=name)
    module.__spec__ = ModuleSpec(name, None)
    sys.modules[name] = module
    return module


for needless in ("torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.ops", "wandb"):
    stand_in(needless)
stand_in("torchvision.ops.misc").FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
TOKENIZER = given.roberta_like_tokenizer()
SMALL_TEXT.update(vocab_size=len(TOKENIZER), max_position_embeddings=82, type_vocab_size=1, pad_token_id=1)
SMALL_TEXT.update(bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5)
for kind in ("Roberta", "Bert", "Bart"):  # it loads them when it is imported
    getattr(transformers, f"{kind}Tokenizer").from_pretrained = staticmethod(lambda *name: TOKENIZER)
TOWER = transformers.RobertaConfig(**SMALL_TEXT)
transformers.RobertaModel.from_pretrained = classmethod(lambda cls, name: cls(TOWER))

import laion_clap  # noqa: E402
from laion_clap import hook  # noqa: E402
from laion_clap.clap_module import factory, htsat  # noqa: E402


def embedding_as_long(module, clip: np.ndarray) -> np.ndarray:
    """Of a short clip that is fused all the same, as transformers' feature extractor asks for of one in each batch."""
    sound = torch.from_numpy(hook.int16_to_float32(hook.float32_to_int16(clip))).float()
    settings = {"data_truncating": "fusion", "data_filling": "repeatpad", "audio_cfg": module.model_cfg["audio_cfg"]}
    heard = hook.get_audio_features({}, sound, 480_000, **settings)
    heard["longer"] = torch.tensor([True])
    with torch.no_grad():
        return module.model.get_audio_embedding([heard]).numpy()


def reference(folder: Path, is_fused: bool) -> tuple[dict, dict]:
    """Names and shapes of a checkpoint, and arrays: those that are not random, and the answers."""
    module = laion_clap.CLAP_Module(enable_fusion=is_fused, device="cpu")
    shapes = {name: list(value.shape) for name, value in module.model.state_dict().items()}
    fixed = {given.fixed_key(name, v.shape): v.numpy() for name, v in module.model.state_dict().items()}
    state = given.make_state(shapes, fixed)
    state["text_branch.embeddings.position_ids"] = torch.arange(SMALL_TEXT["max_position_embeddings"])[None]
    path = folder / "laion.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    module.load_ckpt(str(path), verbose=False)
    clips = [soundfile.read(file, dtype="float32")[0] for file in given.write_clips(folder, 48_000)["short"]]
    audio = np.concatenate([module.get_audio_embedding_from_data([clip]) for clip in clips])
    as_long = np.concatenate([embedding_as_long(module, clip) for clip in clips]) if is_fused else audio
    text = module.get_text_embedding(given.TEXTS)
    logits = module.model.logit_scale_a.exp().item() * audio @ text.T
    arrays = {f"fixed {key}": value for key, value in fixed.items() if key is not None}
    return shapes, {**arrays, "short": audio, "as_long": as_long, "texts": text, "similarity": logits}


def main():
    whole = htsat.HTSAT_Swin_Transformer.__init__
    htsat.HTSAT_Swin_Transformer.__init__ = lambda self, **keywords: whole(self, **{**keywords, **SMALL})
    factory._MODEL_CONFIGS["HTSAT-tiny"]["embed_dim"] = SMALL["embed_dim"] * 8
    shapes, arrays = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, is_fused in (("plain", False), ("fused", True)):
            shapes[kind], found = reference(Path(scratch), is_fused)
            arrays.update({f"{kind} {key}": value for key, value in found.items()})
    packages = ("laion_clap", "torch", "torchaudio", "torchlibrosa", "transformers", "numpy", "soxr")
    origin = {"python": platform.python_version(), **{name: installed(name) for name in packages}}
    folder = Path(__file__).parent
    np.savez_compressed(folder / "laion_reference.npz", **arrays)
    text = json.dumps({"written by": Path(__file__).name, "with": origin, "shapes": shapes})
    (folder / "laion_reference.json").write_text(text.replace('], "', '],\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
