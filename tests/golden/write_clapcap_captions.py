"""Writes clapcap_captions.json: the tokens that msclap 1.3.4 writes with random weights in the format of ClapCap.

Run it where write_clap_reference.py is run, after it:

    python tests/golden/write_clapcap_captions.py                    the golden tokens: msclap's classes, made small
    python tests/golden/write_clapcap_captions.py --full OUT GPT2    whole size, with the tokenizer in the folder GPT2
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import clap_checkpoints as given
import msclap.CLAPWrapper as wrapper
import msclap.models.mapper as mapper
import torch
import write_clap_reference as reference
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

SMALL_WRITER = {"n_embd": 64, "n_layer": 2, "n_head": 1, "n_positions": 128}
reference.SMALL["2023"].update({"num_layers": 3, "prefix_length": 7, "prefix_length_clip": 5})
# beams, longest caption, temperature: as the original has them unless told otherwise, and others
SETTINGS = {"default": (5, 67, 1.0), "narrow": (2, 23, 1.0), "warm": (3, 31, 1.7)}


class Recorder(wrapper.CLAPWrapper):
    """Keeps the beams of each search, best first, as tokens: `decode` is made to give these."""

    def _generate_beam(self, *args, **kwargs):
        texts = super()._generate_beam(*args, **kwargs)
        self.beams = [[int(token) for token in text.split()] for text in texts]
        return texts


def main(folder: str | None = None, source: str | None = None):
    small = folder is None
    tokenizer = given.gpt2_like_tokenizer() if small else AutoTokenizer.from_pretrained(source)
    tokenizer.decode = lambda tokens: " ".join(map(str, tokens))
    reference.offline("2023", tokenizer, small)
    writer = GPT2Config(vocab_size=len(tokenizer), **(SMALL_WRITER if small else {}))
    build = {"from_pretrained": staticmethod(lambda name: GPT2LMHeadModel(writer))}
    mapper.GPT2LMHeadModel = type("Offline", (), build)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(folder or scratch, "clapcap_weights_2023.pth")
        torch.save({"model": {}}, path)
        blank = wrapper.CLAPWrapper(str(path), version="clapcap").clapcap.state_dict()
        shapes = {name: list(value.shape) for name, value in blank.items()}
        fixed = {given.fixed_key(name, value.shape): value.numpy() for name, value in blank.items()}
        state = given.make_clapcap_state(shapes, fixed)
        torch.save({"model": state}, path)
        original = Recorder(str(path), version="clapcap")
        loaded = original.clapcap.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items()) and loaded.keys() == state.keys()
        captions: dict[str, dict] = {name: {} for name in SETTINGS}
        for file in given.write_clips(Path(scratch))["short"]:
            for name, (beams, longest, temperature) in SETTINGS.items():
                if not small and name != "default":
                    continue
                original.generate_caption([str(file)], True, beams, longest, temperature)
                captions[name][file.stem] = original.beams
                print(name, file.stem, [len(beam) for beam in original.beams], original.beams[0][:9], flush=True)
    origin = {
        "python": platform.python_version(),
        **{n: reference.installed(n) for n in ("msclap", "torch", "transformers")},
    }
    golden = {
        "written by": Path(__file__).name,
        "with": origin,
        "settings": {name: dict(zip(("num_beams", "max_length", "temperature"), values, strict=True)) for name, values in SETTINGS.items()},
        "captions": captions,
        "shapes": shapes,
    }  # fmt: skip
    text = json.dumps(golden).replace('], "', '],\n"').replace('}, "', '},\n"')
    Path(__file__ if small else path).with_name("clapcap_captions.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[2:] if sys.argv[1:2] == ["--full"] else [])
