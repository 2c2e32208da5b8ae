"""CLAP 2022 and 2023 (Microsoft) to `SlapModel`."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from ..data.tokenizer import end_texts
from ..modeling.configuration_slap import SlapCnn14Config, SlapConfig, SlapHtsatConfig
from ..modeling.feature_extraction_slap import SlapFeatureExtractor
from ..modeling.modeling_slap import SlapModel
from ..modeling.processing_slap import SlapProcessor
from .checkpoint import (
    ConversionError,
    check_front_end,
    front_end_dropped,
    htsat_dropped,
    htsat_rules,
    htsat_sizes,
    load_strictly,
    rename,
    split_qkv,
)

TEXT_TOKENS = {"2022": 100, "2023": 77}  # the longest text
HEAD_SIZE = 64  # of BERT-base and GPT-2: the one size that weights do not show


class Converted(NamedTuple):
    """What a converter makes of a checkpoint.

    Args:
        model, processor: ready to be saved.
        dropped: keys that were left out, each with its reason.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    dropped: dict[str, str]


def convert_2023(state: dict[str, Tensor], tokenizer: str = "gpt2", compat: bool = False) -> Converted:
    """CLAP 2023: HTSAT and GPT-2.

    Args:
        state: as `read_checkpoint` gives it.
        tokenizer: folder or Hub id of GPT-2's.
        compat: hear and read as the original does, with its faults (see `convert`).
    Raises:
        ConversionError: see `rename`, `load_strictly`, `check_front_end`; a tokenizer of another size.
    """
    rules, dropped = htsat_names("audio_encoder.base.htsat.", "audio_model.")
    text = gpt2_config(state, "caption_encoder.base.")
    of_gpt2 = {
        r"caption_encoder\.base\.h\.\d+\.attn\.(masked_)?bias": "causal mask of GPT-2: computed",
    }
    audio_config = htsat_config(state, "audio_encoder.base.htsat.")
    made = gpt2_tokenizer(tokenizer, TEXT_TOKENS["2023"], text.vocab_size)
    pooling = "nonzero" if compat else "last"
    return _convert(state, audio_config, text, made, pooling, rules, {**dropped, **of_gpt2}, compat)


def convert_2022(state: dict[str, Tensor], tokenizer: str = "bert-base-uncased", compat: bool = False) -> Converted:
    """CLAP 2022: CNN14 and BERT. Arguments and errors as for `convert_2023`."""
    old, shape = "audio_encoder.base.", shapes_of(state)
    blocks = sum(f"{old}conv_block{n}.conv2.weight" in state for n in range(1, 10))
    audio_config = SlapCnn14Config(
        hidden_size=shape(f"{old}fc1.weight")[0],
        num_mel_bins=shape(f"{old}bn0.weight")[0],
        block_sizes=[shape(f"{old}conv_block{n}.conv2.weight")[0] for n in range(1, blocks + 1)],
    )
    _check_filters(state, old, audio_config, [{}, {"mel_high_hz": 8_000.0}])
    rules = {
        rf"audio_encoder\.base\.conv_block{n}\.(.*)": rf"audio_model.blocks.{n - 1}.\1" for n in range(1, blocks + 1)
    }
    rules[r"audio_encoder\.base\.((bn0|fc1)\..*)"] = r"audio_model.\1"
    dropped = {
        **front_end_dropped(r"audio_encoder\.base\."),
        r"audio_encoder\.base\.fc_audioset\..*": "classifies AudioSet's labels; the embedding is taken before it",
        r"caption_encoder\.base\.embeddings\.position_ids": "numbers of the places: computed",
        r"caption_encoder\.base\.pooler\..*": "BERT's pooler; CLAP takes the hidden state of [CLS] itself",
    }
    text = BertConfig(**bert_sizes(state, "caption_encoder.base."))
    made = AutoTokenizer.from_pretrained(tokenizer, model_max_length=TEXT_TOKENS["2022"])
    check_vocabulary(made, tokenizer, text.vocab_size)
    return _convert(state, audio_config, text, made, "cls", rules, dropped, compat)


def _convert(
    state: dict[str, Tensor],
    audio_config: PreTrainedConfig,
    text_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    text_pooling: str,
    rules: dict[str, str],
    dropped: dict[str, str],
    compat: bool,
) -> Converted:
    """What both versions share."""
    rules = {
        **rules,
        r"audio_encoder\.projection\.(.*)": r"audio_projection.\1",
        r"caption_encoder\.projection\.(.*)": r"text_projection.\1",
        r"caption_encoder\.base\.(.*)": r"text_model.\1",
        "logit_scale": "logit_scale",
    }
    weights, left_out = rename(split_qkv(state), rules, dropped)
    scale = weights["logit_scale"] = _of(weights, "logit_scale").reshape(1)
    config = SlapConfig(
        audio_config=audio_config,
        text_config=text_config,
        decoder_config=False,
        projection="residual_mlp",
        projection_dim=_of(weights, "audio_projection.linear1.weight").shape[0],
        text_pooling=text_pooling,
        logit_scale_init_value=float(scale),
        logit_scale_max=max(100.0, 1.001 * float(scale.exp())),  # the original has no largest multiplier
        bos_token_id=_first(tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id),
        eos_token_id=_first(tokenizer.eos_token_id, tokenizer.sep_token_id),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = SlapModel(config).eval()
    load_strictly(model, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    return Converted(model, SlapProcessor(feature_extractor(audio_config, compat), tokenizer), left_out)


def htsat_names(old: str, new: str) -> tuple[dict[str, str], dict[str, str]]:
    """For `rename`: rules, and what is dropped, of an HTSAT that becomes a `SlapHtsatModel`; names begin with `old` and
    `new`."""
    return htsat_rules(old, f"{new}htsat.audio_encoder."), htsat_dropped(old)


def htsat_config(state: dict[str, Tensor], old: str) -> SlapHtsatConfig:
    """Configuration of an HTSAT of CLAP, with the front end that lies among its weights under `old`.

    Raises:
        ConversionError: no HTSAT, or a front end that is not known.
    """
    sizes = htsat_sizes(state, old)
    sizes["attention_window"] = sizes.pop("window_size")
    config = SlapHtsatConfig(**sizes)
    _check_filters(state, old, config, [{}, {"mel_rate": None, "mel_high_hz": 8_000.0}, {"mel_rate": None}])
    return config


def gpt2_config(state: dict[str, Tensor], old: str) -> GPT2Config:
    """Configuration of a GPT-2 whose weights' names begin with `old`."""
    shape = shapes_of(state)
    vocabulary, width = shape(f"{old}wte.weight")
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=shape(f"{old}wpe.weight")[0],
        n_embd=width,
        n_layer=layers_of(state, f"{old}h."),
        n_head=width // HEAD_SIZE,
        bos_token_id=vocabulary - 1,  # <|endoftext|> is the last
        eos_token_id=vocabulary - 1,
    )


def bert_sizes(state: dict[str, Tensor], old: str) -> dict[str, int]:
    """Sizes of a BERT, or RoBERTa, whose weights' names begin with `old`: keywords of its configuration."""
    shape = shapes_of(state)
    vocabulary, width = shape(f"{old}embeddings.word_embeddings.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers_of(state, f"{old}encoder.layer."),
        "num_attention_heads": width // HEAD_SIZE,
        "intermediate_size": shape(f"{old}encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape(f"{old}embeddings.position_embeddings.weight")[0],
    }


def gpt2_tokenizer(
    name: str,
    max_length: int,
    vocabulary: int,
    ends: tuple[str, ...] = ("Ġ", "<|endoftext|>"),
    pad_token: str | None = "!",
) -> PreTrainedTokenizerFast:
    """GPT-2's tokenizer as CLAP uses it: a text ends with a space and the end token; "!" fills up, and is never part of
    a longer token. (The original joins that space with blanks at the end of a text, if a text has any there.)

    Args:
        name: folder or Hub id.
        max_length: of a text with its end, in tokens.
        vocabulary: tokens that the checkpoint has embeddings for.
        ends: tokens that end a text; none for a tokenizer that captions are read with.
        pad_token: None takes the end token, so that a "!" in a caption is not taken for padding.
    Raises:
        ConversionError: not GPT-2's.
    """
    loaded = AutoTokenizer.from_pretrained(name)
    if not loaded.is_fast or loaded.eos_token is None:
        raise ConversionError(f"{name} is no tokenizer of the tokenizers library with an end token; GPT-2's is needed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=loaded.backend_tokenizer,
        bos_token=loaded.eos_token,
        eos_token=loaded.eos_token,
        unk_token=loaded.eos_token,
        pad_token=pad_token or loaded.eos_token,
        padding_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
    check_vocabulary(tokenizer, name, vocabulary)
    return end_texts(tokenizer, ends) if ends else tokenizer


def feature_extractor(config: PreTrainedConfig, compat: bool) -> SlapFeatureExtractor:
    """The front end of a tower."""
    extractor = SlapFeatureExtractor.for_audio_config(config)
    extractor.compat = compat
    return extractor


def _check_filters(state: dict[str, Tensor], old: str, config: PreTrainedConfig, changes: list[dict]) -> None:
    """Sets `config.front_end` to what the checkpoint holds: that of the configuration with one of `changes`."""
    candidates = {}
    for change in changes:
        front_end = {**config.front_end, **change}
        rate = front_end.get("mel_rate") or front_end["sampling_rate"]
        name = f"{front_end['mel_low_hz']:g} to {front_end['mel_high_hz']:g} Hz at {rate} Hz"
        candidates[name] = (front_end, SlapFeatureExtractor(feature_size=config.num_mel_bins, **front_end))
    window = next(iter(candidates.values()))[1].window
    found = check_front_end(state, old, window, {name: made.mel_filters for name, (_, made) in candidates.items()})
    config.front_end = candidates[found][0]


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, name: str, vocabulary: int) -> None:
    """Refuses a tokenizer of another size than the embeddings."""
    if len(tokenizer) != vocabulary:
        raise ConversionError(
            f"the tokenizer {name!r} has {len(tokenizer)} tokens and the checkpoint embeddings of {vocabulary}; pass "
            "tokenizer= that it was trained with"
        )


def layers_of(state: dict[str, Tensor], old: str) -> int:
    """How many layers are numbered behind `old`."""
    return len({key[len(old) :].split(".")[0] for key in state if key.startswith(old)})


def shapes_of(state: dict[str, Tensor]) -> Callable[[str], torch.Size]:
    """The shape of a tensor by its name, or a ConversionError."""
    return lambda key: _of(state, key).shape


def _of(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ConversionError(f"the checkpoint holds no {key!r}: it is not this version, or incomplete")
    return state[key]


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
