"""Configuration of SLAP. The defaults are SLAP-base: arXiv 2601.12594 where it states a value.

Comments mark each number: "P" is stated by the paper, "A" is assumed, with the precedent that was followed.
"""

import math
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

WINDOW_UNITS = ("patch_columns", "tokens", "exact_columns")
ATTENTION_BACKENDS = ("auto", "eager", "clips", "banded", "padded", "varlen", "flex")
LONG_AUDIO = ("windows", "whole")
TEXT_POOLINGS = ("map", "cls", "mean", "last", "nonzero", "pooler")
PROJECTIONS = ("linear", "residual_mlp")
SHORT_AUDIO = ("repeat", "pad")
CONTRASTIVE_KINDS = ("softmax", "sigmoid")

# Keys that transformers itself writes into, or reads from, a configuration besides its declared fields.
_KEYS_OF_TRANSFORMERS = {
    "model_type", "auto_map", "custom_pipelines", "num_labels", "torch_dtype", "name_or_path", "_name_or_path",
    "attn_implementation", "experts_implementation", "output_attentions", "quantization_config", "_commit_hash",
    "use_cache",  # Trainer
    "_attn_implementation_internal", "_experts_implementation_internal", "tie_last_hidden_states",
}  # fmt: skip


class _StrictConfig(PreTrainedConfig):
    """A configuration that refuses misspelt keys and the configuration of another model."""

    def __post_init__(self, **kwargs: Any):
        found = kwargs.pop("model_type", None)
        if found not in (None, self.model_type):
            raise ValueError(
                f"this is the configuration of a {found!r} model, not of a {self.model_type!r} model; "
                f"load it with its own class, or with AutoModel.from_pretrained"
            )
        unknown = sorted(set(kwargs) - _KEYS_OF_TRANSFORMERS)
        if unknown:
            known = sorted(field.name for field in fields(self) if not field.name.startswith("_"))
            raise ValueError(f"unknown keys {unknown} for {type(self).__name__}; known keys are {known}")
        _refuse_kernels(kwargs)
        super().__post_init__(**kwargs)


def _refuse_kernels(keywords: dict):
    """A configuration travels with weights, and must not fetch code."""
    for name in ("attn_implementation", "experts_implementation"):
        if "/" in str(keywords.get(name)):
            raise ValueError(
                f"{name}={keywords[name]!r} would fetch code from the Hub and run it; leave it out: SLAP has its own, "
                f"attention_backend, one of {ATTENTION_BACKENDS}"
            )


@strict
class SlapAudioConfig(_StrictConfig):
    """The audio encoder: a pre-norm transformer over non-overlapping patches of a log-mel spectrogram.

    Args:
        num_mel_bins: height of the spectrogram.
        patch_frames: frames (time) of one patch.
        patch_bins: mel bins (frequency) of one patch.
        frames_per_second: frame rate of the front end; it turns patch columns into seconds.
        max_audio_seconds: longest clip seen in training; longer ones are encoded in windows of this length.
        long_audio: "windows", or "whole" to encode clips of any length in one piece.
        window_overlap_seconds: overlap of neighbouring windows; None is a tenth of `max_audio_seconds`.
        layer_types: per layer "sliding_attention" (local) or "full_attention" (global); None repeats local, local,
            global.
        local_window: whole width of the local window, in `local_window_unit`; half of it lies on each side.
        local_window_unit: "patch_columns": columns, measured along the token index (with 4 rows, 24 columns are 48
            tokens on each side); "tokens": the same rule counted in tokens; "exact_columns": every token of every
            column within reach, which flash kernels cannot express. Order is time-major: all rows of one column,
            then the next column.
        attention_backend: how packed attention is computed, see `attention_slap.py`; "auto" follows
            `attn_implementation` and the machine. It never changes a result beyond rounding.
        pooling_mlp_ratio: width of the MLP of the attention pooling head, in units of `hidden_size`.
        stem_channels: channels of the convolutions that each patch passes before its linear embedding; every one
            halves its frames and bins. They see one patch at a time, so neither batch mates nor masked neighbours
            show in a token. None, as in the paper: none. With little data they help much, see EXPERIMENTS.md.
    Raises:
        ValueError: unknown keys, or sizes that do not divide each other.
    Paper: SLAP, section 2 (encoder). Parameters at the defaults: 113.5 M without the pooling head.
    """

    model_type = "slap_audio"
    base_config_key = "audio_config"

    num_mel_bins: int = 64  # P
    patch_frames: int = 16  # P
    patch_bins: int = 16  # P
    frames_per_second: float = 100.0  # P: 10 ms hop
    max_audio_seconds: float = 30.0  # P
    long_audio: str = "windows"  # A
    window_overlap_seconds: float | None = None  # A: a tenth, so that every moment has context on both sides
    hidden_size: int = 768  # P
    num_hidden_layers: int = 12  # P
    num_attention_heads: int = 12  # P
    intermediate_size: int = 3072  # P; A: kept at 3072 with SwiGLU, which gives 113.5 M parameters
    layer_types: list[str] | None = None  # P: local, local, global, repeated
    local_window: int = 24  # P; A: its unit ("24 frames") is read as patch columns, 3.84 s
    local_window_unit: str = "patch_columns"  # A
    rope_theta: float = 10_000.0  # A: half of the head dimension per axis
    rms_norm_eps: float = 1e-6  # A
    initializer_range: float = 0.02  # A
    pooling_mlp_ratio: int = 4  # A: big_vision's MAP head
    attention_backend: str = "auto"
    stem_channels: list[int] | None = None  # P

    def __post_init__(self, **kwargs: Any):
        if self.layer_types is None:
            kinds = ("sliding_attention", "sliding_attention", "full_attention")
            self.layer_types = [kinds[i % 3] for i in range(self.num_hidden_layers)]
        if self.window_overlap_seconds is None:
            self.window_overlap_seconds = self.max_audio_seconds / 10
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        for name in ("num_hidden_layers", "local_window", "rope_theta", "frames_per_second", "max_audio_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.max_audio_seconds * self.frames_per_second < self.patch_frames:
            raise ValueError(f"max_audio_seconds={self.max_audio_seconds} is less than one patch")
        if not 0 <= self.window_overlap_seconds < self.max_audio_seconds:
            raise ValueError(
                f"window_overlap_seconds={self.window_overlap_seconds} must be less than max_audio_seconds="
                f"{self.max_audio_seconds}"
            )
        if any(channels < 1 for channels in self.stem_channels or ()):
            raise ValueError(f"stem_channels={self.stem_channels} must be positive")
        if self.num_mel_bins % self.patch_bins:
            raise ValueError(f"patch_bins={self.patch_bins} must divide num_mel_bins={self.num_mel_bins}")
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4 x num_attention_heads="
                f"{4 * self.num_attention_heads}: rotary pairs on two axes"
            )
        if self.local_window_unit not in WINDOW_UNITS:
            raise ValueError(f"local_window_unit={self.local_window_unit!r}; accepted are {WINDOW_UNITS}")
        if self.long_audio not in LONG_AUDIO:
            raise ValueError(f"long_audio={self.long_audio!r}; accepted are {LONG_AUDIO}")
        if self.attention_backend not in ATTENTION_BACKENDS:
            raise ValueError(f"attention_backend={self.attention_backend!r}; accepted are {ATTENTION_BACKENDS}")

    @property
    def patch_rows(self) -> int:
        """Patches in one column, 4 at the defaults."""
        return self.num_mel_bins // self.patch_bins

    @property
    def patch_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, frames, bins) of a patch, and of what each convolution in front of the embedding makes of it."""
        shapes = [(1, self.patch_frames, self.patch_bins)]
        for channels in self.stem_channels or ():
            _, frames, bins = shapes[-1]
            shapes.append((channels, -(-frames // 2), -(-bins // 2)))
        return shapes


@strict
class SlapWindowedAudioConfig(_StrictConfig):
    """An audio encoder that hears a fixed length; the base of the configurations of `SlapHtsatModel`, `SlapCnn14Model`
    and of any encoder that a user plugs in. These are all the fields that the rest of the package reads.

    Args:
        hidden_size: width of its dense features and of its pooled feature.
        num_mel_bins: height of the spectrogram.
        frames_per_second: frame rate of the front end.
        max_audio_seconds: what it hears at once. Longer clips are encoded in windows of this length, shorter ones
            filled up.
        window_overlap_seconds: overlap of neighbouring windows; None is a tenth of `max_audio_seconds`.
        short_audio: how frames are filled up: "repeat" (the clip again and again) or "pad" (with 0). A front end with
            `window_seconds` has filled them up as sound already.
        front_end: keywords of the `SlapFeatureExtractor` it was made for, beyond `feature_size`; None is the default
            front end. Who starts a training makes its feature extractor from them.
    Raises:
        ValueError: unknown keys, or values that contradict each other.
    """

    base_config_key = "audio_config"
    patch_frames = 1  # its windows are counted in frames
    long_audio = "windows"
    patch_rows = 1  # tokens at the same moment

    hidden_size: int = 768
    num_mel_bins: int = 64
    frames_per_second: float = 100.0
    max_audio_seconds: float = 10.0
    window_overlap_seconds: float | None = None
    short_audio: str = "repeat"
    front_end: dict | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any):
        if self.window_overlap_seconds is None:
            self.window_overlap_seconds = self.max_audio_seconds / 10
        super().__post_init__(**kwargs)
        self.validate_window()  # `strict` is not inherited, and encoders of users derive from this

    def validate_window(self):
        for name in ("hidden_size", "num_mel_bins", "frames_per_second", "max_audio_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 <= self.window_overlap_seconds < self.max_audio_seconds:
            raise ValueError(
                f"window_overlap_seconds={self.window_overlap_seconds} must be less than max_audio_seconds="
                f"{self.max_audio_seconds}"
            )
        if self.short_audio not in SHORT_AUDIO:
            raise ValueError(f"short_audio={self.short_audio!r}; accepted are {SHORT_AUDIO}")
        made = self.front_end or {}
        if made.get("window_seconds") not in (None, self.max_audio_seconds):
            raise ValueError(
                f"front_end fills clips up to window_seconds={made['window_seconds']}, max_audio_seconds="
                f"{self.max_audio_seconds}; they must be the same"
            )
        if {"sampling_rate", "hop_length"} <= made.keys():
            rate = made["sampling_rate"] / made["hop_length"]
            if abs(rate - self.frames_per_second) > 1e-6 * rate:
                raise ValueError(
                    f"front_end makes {rate:g} frames per second, frames_per_second={self.frames_per_second}"
                )

    @property
    def patch_bins(self) -> int:
        """A token has heard all mel bins."""
        return self.num_mel_bins

    @property
    def window_frames(self) -> int:
        """Frames of a window: those of a waveform of `max_audio_seconds`, 965 for CLAP 2023."""
        return int(self.max_audio_seconds * self.frames_per_second + 1e-6) + 1


# What CLAP hears: decibels of 64 mels of 44.1 kHz sound. `log_mel` divides natural logarithms by `std`, and log(10) /
# 10 of them are a decibel. padding_value is what SpecAugment puts in: the mean over 40 clips of the example corpus.
_CLAP_FRONT_END = {
    "sampling_rate": 44_100, "hop_length": 320, "win_length": 1024, "n_fft": 1024, "mel_low_hz": 50.0,
    "mel_high_hz": 14_000.0, "log_floor": 1e-10, "mean": 0.0, "std": math.log(10) / 10, "padding_value": -54.0,
}  # fmt: skip


@strict
class SlapHtsatConfig(SlapWindowedAudioConfig):
    """HTSAT, a Swin transformer over a folded spectrogram: the audio tower of CLAP 2023 (and of LAION's CLAP).

    Args:
        spec_size: height and width of the image that a window is folded into; 4 strips of 64 mels at the defaults.
        patch_embeds_hidden_size: width of the first stage; each further one is twice as wide.
        depths, num_attention_heads: layers and heads of each stage.
        attention_window: height and width of the squares that attend to themselves, in patches.
        drop_path_rate: of the last layer while training, rising from 0 at the first.
        others: see `SlapWindowedAudioConfig`.
    Raises:
        ValueError: sizes that do not fit each other.
    Paper: HTS-AT (2202.00874), section 2; CLAP 2023 (2309.05767), section 3.
    """

    model_type = "slap_htsat"

    frames_per_second: float = 44_100 / 320
    max_audio_seconds: float = 7.0
    spec_size: int = 256
    patch_size: int = 4
    patch_embeds_hidden_size: int = 96
    depths: list[int] | None = None
    num_attention_heads: list[int] | None = None
    attention_window: int = 8
    mlp_ratio: float = 4.0
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: Any):
        self.depths = self.depths or [2, 2, 6, 2]
        self.num_attention_heads = self.num_attention_heads or [4, 8, 16, 32]
        if self.front_end is None:
            # Differs from the paper, which says 50 to 8,000 Hz: CLAP's code designs HTSAT's filters for 32 kHz and
            # 50 to 14,000 Hz, and lets them hear 44.1 kHz.
            self.front_end = {**_CLAP_FRONT_END, "mel_rate": 32_000, "window_seconds": self.max_audio_seconds}
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        stages, ratio = len(self.depths), self.spec_size // self.num_mel_bins
        if stages != len(self.num_attention_heads):
            raise ValueError(
                f"depths={self.depths} and num_attention_heads={self.num_attention_heads} differ in length"
            )
        if self.hidden_size != self.patch_embeds_hidden_size * 2 ** (stages - 1):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be that of the last stage: patch_embeds_hidden_size="
                f"{self.patch_embeds_hidden_size} doubled {stages - 1} times"
            )
        reduction = self.patch_size * 2 ** (stages - 1)
        if self.spec_size % self.num_mel_bins or self.spec_size % (reduction * ratio):
            raise ValueError(
                f"spec_size={self.spec_size} must be a multiple of num_mel_bins={self.num_mel_bins}, and each strip of "
                f"{self.num_mel_bins} a multiple of {reduction}, patch_size doubled {stages - 1} times"
            )
        if self.window_frames > self.spec_size * ratio:
            raise ValueError(
                f"max_audio_seconds={self.max_audio_seconds} are {self.window_frames} frames; an image of spec_size="
                f"{self.spec_size} holds {self.spec_size * ratio}"
            )

    @property
    def patch_rows(self) -> int:
        """Tokens at the same moment, 2 at the defaults."""
        return self.num_mel_bins // (self.patch_size * 2 ** (len(self.depths) - 1))


@strict
class SlapCnn14Config(SlapWindowedAudioConfig):
    """CNN14, six blocks of convolutions: the audio tower of CLAP 2022.

    Args:
        block_sizes: channels of each block; all but the last halve time and frequency.
        block_dropout: after each block, while training.
        head_dropout: before and after the last layer, while training.
        others: see `SlapWindowedAudioConfig`.
    Raises:
        ValueError: see `SlapWindowedAudioConfig`.
    Paper: PANNs (1912.10211), table 1; CLAP (2206.04769), section 3.
    """

    model_type = "slap_cnn14"

    hidden_size: int = 2048
    frames_per_second: float = 44_100 / 320
    max_audio_seconds: float = 5.0
    block_sizes: list[int] | None = None
    block_dropout: float = 0.2
    head_dropout: float = 0.5

    def __post_init__(self, **kwargs: Any):
        self.block_sizes = self.block_sizes or [64, 128, 256, 512, 1024, 2048]
        if self.front_end is None:
            self.front_end = {**_CLAP_FRONT_END, "window_seconds": self.max_audio_seconds}
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        if self.block_sizes[-1] != self.hidden_size:
            raise ValueError(f"the last of block_sizes={self.block_sizes} must be hidden_size={self.hidden_size}")
        smallest = 2 ** (len(self.block_sizes) - 1)
        if min(self.num_mel_bins, self.window_frames) < smallest:
            raise ValueError(
                f"num_mel_bins={self.num_mel_bins} and the {self.window_frames} frames of a window must be at least "
                f"{smallest}: {len(self.block_sizes)} blocks halve them {len(self.block_sizes) - 1} times"
            )


@strict
class SlapDecoderConfig(_StrictConfig):
    """The caption decoder: causal, pre-norm, cross-attending to the dense audio features before pooling.

    Args:
        vocab_size: tokens, those of the text tower's tokenizer.
        cross_attention_size: width of the dense audio features; None takes the audio encoder's.
        max_position_embeddings: longest caption in tokens.
        parallel: also learns to write all tokens of a caption at once, from the sound alone (CapPa): adds the embedding
            that then stands in for the tokens so far.
    Paper: SLAP, section 2 (8 layers, 8 heads, width 512, causal).
    """

    model_type = "slap_decoder"
    base_config_key = "decoder_config"

    vocab_size: int = 50_368  # A: ModernBERT's tokenizer
    hidden_size: int = 512  # P
    num_hidden_layers: int = 8  # P
    num_attention_heads: int = 8  # P
    intermediate_size: int = 2048  # A
    cross_attention_size: int | None = None
    max_position_embeddings: int = 128  # A; learned positions as in CapPa
    dropout: float = 0.0  # A
    parallel: bool = False  # A: CaptionStew's arm with mixed captioning has it
    rms_norm_eps: float = 1e-6  # A
    initializer_range: float = 0.02  # A
    tie_word_embeddings: bool = True  # A
    use_cache: bool = True

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must divide hidden_size={self.hidden_size}"
            )


@strict
class SlapConfig(_StrictConfig):
    """SLAP: an audio encoder, a text encoder and a caption decoder around one space. `SlapConfig()` is SLAP-base.

    Args:
        audio_config: keywords of `SlapAudioConfig`, or a configuration.
        text_config: any encoder or decoder known to transformers; without `model_type` it is ModernBERT.
        decoder_config: keywords of `SlapDecoderConfig`, its vocabulary that of the text tower unless said; None
            builds no captioner.
        projection_dim: width of the joint space.
        projection: from each tower into the joint space: "linear", or "residual_mlp" (CLAP's).
        projection_dropout: of "residual_mlp".
        text_pooling: "map" (attention pooling), "cls" (first token), "mean", "last" (last real token, for decoders
            such as GPT-2), "pooler" (the tower's own `pooler_output`), "nonzero" (what CLAP's code does with GPT-2:
            as many ids as are not 0 are counted, wherever they stand; a "!" in a text shifts it).
        contrastive_kind: "softmax" (InfoNCE), or "sigmoid", which adds a learned bias to the similarities.
        logit_scale_init_value: logarithm of the multiplier of the similarities at the start; None is log(1 / 0.07) for
            "softmax", log(10) for "sigmoid".
        logit_scale_max: largest multiplier.
        logit_bias_init_value: the bias of "sigmoid" at the start.
        num_prototypes, prototype_hidden_size, prototype_bottleneck_size: the head of masked prediction.
        bos_token_id, eos_token_id, pad_token_id: of the tokenizer, used by the captioner; the defaults are those of
            ModernBERT ([CLS], [SEP], [PAD]).
    Raises:
        ValueError: unknown keys, or the configuration of another model.
    Paper: SLAP, section 2; DINOv2's `ssl_default_config` for the head of masked prediction, which SLAP leaves open.
    """

    model_type = "slap"
    sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig, "decoder_config": SlapDecoderConfig}

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | bool | None = True
    projection_dim: int = 1024  # A: MS-CLAP, WavCaps
    projection: str = "linear"  # A
    projection_dropout: float = 0.5  # MS-CLAP
    text_pooling: str = "map"  # P
    contrastive_kind: str = "softmax"  # P
    logit_scale_init_value: float | None = None  # A: CLIP, SigLIP
    logit_scale_max: float = 100.0  # A: CLIP
    logit_bias_init_value: float = -10.0  # A: SigLIP
    num_prototypes: int = 65_536  # A: DINOv2
    prototype_hidden_size: int = 2048  # A: DINOv2
    prototype_bottleneck_size: int = 256  # A: DINOv2
    initializer_range: float = 0.02  # A
    is_encoder_decoder: bool = True  # the captioner's generate() needs it
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50_281
    eos_token_id: int | None = 50_282
    pad_token_id: int | None = 50_283
    decoder_start_token_id: int | None = None  # None: bos_token_id

    def __post_init__(self, **kwargs: Any):
        self.audio_config = _sub_config(self.audio_config, "slap_audio")
        self.text_config = _sub_config(self.text_config, "modernbert")
        if self.decoder_config is True or isinstance(self.decoder_config, dict):
            keywords = {} if self.decoder_config is True else self.decoder_config
            self.decoder_config = SlapDecoderConfig(**{"vocab_size": self.text_config.vocab_size, **keywords})
        elif self.decoder_config is False:
            self.decoder_config = None
        if self.decoder_config is not None and self.decoder_config.cross_attention_size is None:
            self.decoder_config.cross_attention_size = self.audio_config.hidden_size
        if self.logit_scale_init_value is None:
            self.logit_scale_init_value = math.log(10.0 if self.contrastive_kind == "sigmoid" else 1 / 0.07)
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        super().__post_init__(**kwargs)

    def validate_pooling(self):
        if self.text_pooling not in TEXT_POOLINGS:
            raise ValueError(f"text_pooling={self.text_pooling!r}; accepted are {TEXT_POOLINGS}")

    def validate_projection(self):
        if self.projection not in PROJECTIONS:
            raise ValueError(f"projection={self.projection!r}; accepted are {PROJECTIONS}")

    def validate_contrastive(self):
        if self.contrastive_kind not in CONTRASTIVE_KINDS:
            raise ValueError(f"contrastive_kind={self.contrastive_kind!r}; accepted are {CONTRASTIVE_KINDS}")

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        for part in output.values():
            if isinstance(part, dict):
                part.pop("_name_or_path", None)  # where a tower was loaded from, often a folder of one machine
        if self.projection == "linear":  # files of models without the other do not name it
            output.pop("projection", None)
            output.pop("projection_dropout", None)
        return output

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        # generate() sizes its cache from this: the caption decoder's, not the text tower's
        if decoder and not encoder and self.decoder_config is not None:
            return self.decoder_config
        return self.text_config


def _sub_config(value: dict | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    """The configuration of a tower from its keywords."""
    if isinstance(value, PreTrainedConfig):
        return value
    keywords = dict(value or {})
    _refuse_kernels(keywords)
    model_type = keywords.pop("model_type", default_type)
    for own in (SlapAudioConfig, SlapHtsatConfig, SlapCnn14Config):
        if model_type == own.model_type:
            return own(**keywords)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"model_type={model_type!r} of a tower is not known to transformers; import the package that defines it, "
            "or AutoConfig.register its configuration first"
        )
    return CONFIG_MAPPING[model_type](**keywords)


__all__ = [
    "SlapAudioConfig",
    "SlapCnn14Config",
    "SlapConfig",
    "SlapDecoderConfig",
    "SlapHtsatConfig",
    "SlapWindowedAudioConfig",
]
