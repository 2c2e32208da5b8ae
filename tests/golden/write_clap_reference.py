"""Writes clap_reference.json and clap_reference.npz: what msclap 1.3.4 says with random weights in its own format.

Run it where msclap is installed, on CPU (it wants torchaudio, numpy 1 and transformers 4, so it has its own environment):

    python tests/golden/write_clap_reference.py                      the golden values: msclap's classes, made small
    python tests/golden/write_clap_reference.py --full OUT GPT2 BERT  whole size, with the tokenizers in these folders
"""

import json
import platform
import sys
import tempfile
from importlib.metadata import version as installed
from pathlib import Path

import clap_checkpoints as given
import msclap.CLAPWrapper as wrapper
import msclap.models.audio as audio
import msclap.models.clap as clap
import msclap.models.htsat as htsat
import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

SMALL_HTSAT = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [2, 2, 4, 4]}
SMALL = {  # in place of the values of msclap's configuration files
    "2022": {"out_emb": 64, "transformer_embed_dim": 128, "d_proj": 48},
    "2023": {"out_emb": 128, "transformer_embed_dim": 128, "d_proj": 48},
}
SMALL_TEXT = {
    "2022": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    "2023": {"n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 128},
}


def offline(version: str, tokenizer, small: bool):
    """Lets msclap build its classes without a hub: text towers from a configuration, a given tokenizer."""
    kind, config = (BertModel, BertConfig) if version == "2022" else (GPT2Model, GPT2Config)
    text = config(vocab_size=len(tokenizer), **(SMALL_TEXT[version] if small else {}))
    clap.AutoModel = type("Offline", (), {"from_pretrained": staticmethod(lambda name: kind(text))})
    wrapper.AutoTokenizer = type("Offline", (), {"from_pretrained": staticmethod(lambda name: tokenizer)})
    if not small:
        return
    read = wrapper.CLAPWrapper.read_config_as_args

    def read_small(self, *args, **kwargs):
        namespace = read(self, *args, **kwargs)
        vars(namespace).update(SMALL[version])
        return namespace

    wrapper.CLAPWrapper.read_config_as_args = read_small
    if version == "2022":
        block = audio.ConvBlock.__init__
        audio.ConvBlock.__init__ = lambda self, in_channels, out_channels: block(
            self, max(1, in_channels // 32), out_channels // 32
        )

        class SmallCnn14(audio.Cnn14):
            def __init__(self, *args):
                super().__init__(*args)
                self.fc1 = torch.nn.Linear(2048 // 32, args[-1])

        clap.get_audio_encoder = lambda name: SmallCnn14
    else:
        whole = htsat.HTSAT_Swin_Transformer.__init__
        htsat.HTSAT_Swin_Transformer.__init__ = lambda self, config: whole(self, config=config, **SMALL_HTSAT)


def build(version: str) -> torch.nn.Module:
    """msclap's model with the weights it begins with."""
    blank = wrapper.CLAPWrapper.__new__(wrapper.CLAPWrapper)
    config = (Path(wrapper.__file__).parent / f"configs/config_{version}.yml").read_text()
    args = vars(blank.read_config_as_args(config, is_config_str=True))
    names = ("audioenc_name", "window_size", "hop_size", "mel_bins", "fmin", "fmax", "out_emb", "text_model")
    sizes = {name: args[name] for name in (*names, "transformer_embed_dim", "d_proj")}
    return clap.CLAP(sample_rate=args["sampling_rate"], classes_num=args["num_classes"], **sizes)


def reference(version: str, tokenizer, folder: Path, small: bool) -> tuple[dict, dict]:
    """Saves a checkpoint and asks the original.

    Returns:
        names and shapes of the checkpoint's tensors, and arrays: those that are not random, and the answers.
    """
    offline(version, tokenizer, small)
    model = build(version)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    fixed = {}
    for name, value in model.state_dict().items():
        key = given.fixed_key(name, value.shape)
        if key is not None:
            assert key not in fixed or np.array_equal(fixed[key], value.numpy()), name
            fixed[key] = value.numpy()
    state = given.make_state(shapes, fixed)
    for name, value in model.state_dict().items():
        if "stft.conv" in name:
            assert torch.allclose(state[name], value, atol=1e-6), name
    path = folder / f"CLAP_weights_{version}.pth"
    torch.save({"model": state}, path)
    original = wrapper.CLAPWrapper(str(path), version=version)
    loaded = original.clap.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items()) and loaded.keys() == state.keys()

    answers = {"texts": original.get_text_embeddings(given.TEXTS), "shouts": original.get_text_embeddings(given.SHOUTS)}
    for kind, files in given.write_clips(folder).items():
        given.draw()
        answers[kind] = original.get_audio_embeddings([str(file) for file in files], resample=True)
    answers["similarity"] = original.compute_similarity(answers["short"], answers["texts"])
    arrays = {f"{version} fixed {key}": value for key, value in fixed.items()}
    return shapes, {**arrays, **{f"{version} {key}": value.detach().numpy() for key, value in answers.items()}}


def main(full: str | None = None, *tokenizers: str):
    small = full is None
    made = {"2023": given.gpt2_like_tokenizer(), "2022": given.bert_like_tokenizer()}
    if tokenizers:
        made = dict(zip(made, map(AutoTokenizer.from_pretrained, tokenizers), strict=True))
    shapes, arrays = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for version, tokenizer in made.items():
            shapes[version], found = reference(version, tokenizer, Path(scratch if small else full), small)
            arrays.update(found)
    packages = ("msclap", "torch", "torchaudio", "torchlibrosa", "librosa", "transformers", "numpy", "soxr")
    origin = {"python": platform.python_version(), **{name: installed(name) for name in packages}}
    folder = Path(__file__).parent if small else Path(full)
    np.savez_compressed(folder / "clap_reference.npz", **arrays)
    text = json.dumps({"written by": Path(__file__).name, "with": origin, "shapes": shapes}, indent=None)
    (folder / "clap_reference.json").write_text(text.replace('], "', '],\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[2:] if sys.argv[1:2] == ["--full"] else [])
