"""Checkpoints of CLAP with random weights, the same wherever they are made: where the original runs, and in the tests.

Needs numpy, torch, tokenizers, soundfile, soxr and transformers (4 or 5), and neither msclap nor hf_slap.
"""

import random
import zlib
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SOUNDS = Path(__file__).parents[2] / "hf_slap" / "bundled" / "sounds"
SHORT = ("dog", "cow", "fire", "guitar", "songbird")  # of 0.6 to 4.3 s, mono, 16 kHz
TEXTS = ["a dog barks", "Rain falls on a tin roof, far away.", "guitar", "a cow moos and birds sing by the stream"]
SHOUTS = ["stop! a dog barks", "Fire!! run! it burns"]  # with the character that CLAP 2023 fills up with
RATE, SEED = 44_100, 2023


def random_weight(name: str, shape: tuple[int, ...], seed: int = SEED) -> torch.Tensor:
    """One tensor, in the order of size that a trained network has there."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(shape, np.float32) * 2 - 1
    is_norm = any(part in name for part in ("norm", ".bn", ".ln_", "LayerNorm", "local_att.1", "local_att.4"))
    if name.endswith("bn0.running_mean"):
        values = values * 10 - 50  # decibels
    elif name.endswith("bn0.running_var"):
        values = values * 50 + 300
    elif name.endswith("running_var") or (is_norm and name.endswith("weight")):
        values = 1 + values / 2
    elif "logit_scale" in name:
        values = np.full(shape, np.log(1 / 0.07), np.float32)
    elif len(shape) > 1 and "embeddings" not in name and ".wte." not in name and ".wpe." not in name:
        fan_in = shape[0] if _is_transposed(name) else int(np.prod(shape[1:]))
        values = values * (3 / fan_in) ** 0.5
    elif len(shape) < 2:
        values = values / 10
    return torch.from_numpy(np.asarray(values, np.float32))


def _is_transposed(name: str) -> bool:
    return any(part in name for part in ("c_attn", "c_proj", "c_fc"))  # GPT-2's layers


def front_end_weights(samples: int = 1024) -> dict[str, torch.Tensor]:
    """The transform that torchlibrosa keeps as weights: by the end of their names."""
    bins, places = np.arange(samples // 2 + 1)[:, None], np.arange(samples)
    window = np.hanning(samples + 1)[:-1]
    wave = np.exp(-2j * np.pi * bins * places / samples) * window
    return {
        "stft.conv_real.weight": torch.from_numpy(wave.real.astype(np.float32))[:, None],
        "stft.conv_imag.weight": torch.from_numpy(wave.imag.astype(np.float32))[:, None],
    }


def fixed_key(name: str, shape: tuple[int, ...]) -> str | None:
    """Under which name a tensor that is not random is kept beside the golden values; None for a random one."""
    tails = ("relative_position_index", "attn_mask", "melW", "num_batches_tracked", "position_ids", "token_type_ids")
    for tail in tails:
        if name.endswith(tail):
            return f"{tail} {'x'.join(map(str, shape))}"
    return None


def make_state(shapes: dict[str, list[int]], fixed: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint from their names and shapes, and those that are not random."""
    front_end, state = front_end_weights(), {}
    for name, shape in shapes.items():
        key = fixed_key(name, shape)
        stft = next((value for tail, value in front_end.items() if name.endswith(tail)), None)
        if key is not None:
            state[name] = torch.from_numpy(np.asarray(fixed[key]).copy()).reshape(shape)
        else:
            state[name] = random_weight(name, tuple(shape)) if stft is None else stft
    return state


def make_clapcap_state(shapes: dict[str, list[int]], fixed: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """As `make_state`, for ClapCap: GPT-2 shares its embeddings, the sound has a say in what it writes, no token calls for
    itself again and again, and the blank, which ends captions, comes now and then."""
    state = make_state(shapes, fixed)
    state["clap_project.linear.weight"] *= 10
    state["gpt.transformer.wte.weight"] *= 0.1
    state["gpt.transformer.wte.weight"][220] *= 2
    state["gpt.lm_head.weight"] = state["gpt.transformer.wte.weight"].clone()
    return state


def gpt2_like_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a small vocabulary in GPT-2's order: "!" is 0, the end token the last."""
    end = "<|endoftext|>"
    tokenizer = _byte_level([], [end])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = ["input_ids", "attention_mask"]  # GPT-2's: msclap hands on whatever the tokenizer makes
    ends = {"bos_token": end, "eos_token": end, "unk_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **ends)


def roberta_like_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a small vocabulary and RoBERTa's marks."""
    marks = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = _byte_level(list(marks.values())[:4], ["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", model_input_names=names, **marks
    )


def _byte_level(first: list[str], last: list[str]) -> Tokenizer:
    alphabet = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256))]
    alphabet += [chr(256 + n) for n in range(256 - len(alphabet))]
    vocabulary, merges = {token: place for place, token in enumerate([*first, *alphabet])}, []
    for word in ("Ġdog", "Ġbarks", "Ġa", "rain", "Ġroof", "Ġfar", "!!", "guitar", "Ġcow", "Ġbirds", "ĠĠ"):
        joined = word[0]
        for letter in word[1:]:
            if joined + letter not in vocabulary:
                vocabulary[joined + letter] = len(vocabulary)
                merges.append((joined, letter))
            joined += letter
    vocabulary.update({token: len(vocabulary) for token in last})
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*first, *last)])
    return tokenizer


def bert_like_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with a small vocabulary and BERT's marks."""
    letters = "abcdefghijklmnopqrstuvwxyz.,!"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    pieces += ["dog", "##arks", "rain", "roof", "guitar", "##ing", "the"]
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **marks)


def write_clips(folder: Path, rate: int = RATE) -> dict[str, list[Path]]:
    """Real sounds as 16-bit WAV files.

    Returns:
        "short": mono at `rate`, shorter than any window; "long": 14 s, so a part is drawn; "stereo": two sounds;
        "other_rate": mono at 16 kHz, as they came.
    """
    native = {name: soundfile.read(SOUNDS / f"{name}.ogg", dtype="float32") for name in (*SHORT, "stream", "door")}
    at_rate = {name: soxr.resample(sound, own, rate) for name, (sound, own) in native.items()}

    def write(name: str, sound: np.ndarray, rate: int = rate) -> Path:
        path = Path(folder, f"{name}.wav")
        soundfile.write(path, sound.clip(-1, 1), rate, subtype="PCM_16")
        return path

    long = np.concatenate([at_rate[name] for name in ("stream", "fire", "door")])
    left, right = at_rate["cow"], at_rate["songbird"][: len(at_rate["cow"])]
    return {
        "short": [write(name, at_rate[name]) for name in SHORT],
        "long": [write("long", long)],
        "stereo": [write("stereo", np.stack([left, right], 1))],
        "other_rate": [write(f"{name}_16k", native[name][0], native[name][1]) for name in SHORT],
    }


def draw(seed: int = SEED) -> None:
    """Before each embedding that draws a part of a clip."""
    random.seed(seed)
