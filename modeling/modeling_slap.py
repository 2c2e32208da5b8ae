"""SLAP: audio encoder, text encoder and caption decoder around one joint space (arXiv 2601.12594).

Letters: B clips, F mel frames and M mel bins, T tokens of all clips packed, N tokens of the longest clip,
D width of a tower, P width of the joint space, L text tokens, V vocabulary, K prototypes, W width of their bottleneck,
H heads.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .attention_slap import PackedLayout, UnpackedLayout, packed_attention
from .configuration_slap import SlapAudioConfig, SlapConfig, SlapDecoderConfig
from .front_end_slap import audio_windows
from .losses_slap import at_least_float32, caption_loss, contrastive_loss, sigmoid_contrastive_loss
from .weights_slap import only_safetensors, refuse_pickles

logger = logging.get_logger(__name__)

INFERENCE_TOKENS = 32_768  # encoded at once without gradients; about 20 minutes of sound at the defaults
_TEXT_GROUPS = 4  # of about one length; more would save little more

# What packed attention does when transformers' `attn_implementation` is set and `attention_backend` is "auto".
_BACKEND_OF_IMPLEMENTATION = {"eager": "eager", "flex_attention": "flex", "flash_attention_2": "varlen"}


# ------------------------------------------------------------------------------------------------ outputs


@dataclass
class SlapAudioModelOutput(BaseModelOutputWithPooling):
    """What the audio encoder says of a batch.

    Args:
        last_hidden_state: (B, N, D), dense features in time-major order (all rows of one patch column, then the
            next), zero where there is no token.
        pooler_output: (B, D), attention-pooled clip feature, before projection.
        attention_mask: (B, N) bool, True at tokens.
        token_seconds: (B, N), middle of each token's patch in seconds from the start of the clip.
    """

    attention_mask: Tensor | None = None
    token_seconds: Tensor | None = None


@dataclass
class SlapOutput(ModelOutput):
    """Both sides of a batch and their similarities.

    Args:
        loss: (), contrastive loss of the batch, when asked for.
        logits_per_audio: (clips, texts), scaled cosine similarities, plus the bias where there is one.
        logits_per_text: (texts, clips), its transpose.
        audio_embeds: (clips, P), unit norm.
        text_embeds: (texts, P), unit norm.
        text_model_output, audio_model_output: outputs of the towers.
    """

    loss: Tensor | None = None
    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    audio_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    audio_model_output: SlapAudioModelOutput | None = None

    def to_tuple(self) -> tuple:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


@dataclass
class SlapPreTrainingOutput(ModelOutput):
    """Everything the three losses need; the training script gathers over ranks and weighs.

    Args:
        audio_embeds, text_embeds: (B, P), unit norm.
        logit_scale: (), multiplier of the similarities, clamped.
        logit_bias: (), added to them, when `contrastive_kind` is "sigmoid".
        caption_logits: (B, L, V), when labels were given.
        prototype_features: (masked tokens, W), unit norm, when a patch mask was given.
        prototypes: (K, W), unit norm, when a patch mask was given; the scores are the cosines of the two.
    """

    audio_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    logit_bias: Tensor | None = None
    caption_logits: Tensor | None = None
    prototype_features: Tensor | None = None
    prototypes: Tensor | None = None


# ------------------------------------------------------------------------------------------------ audio encoder


class SlapRMSNorm(nn.RMSNorm):
    """Root-mean-square norm with a learned gain; its name lets transformers initialise it."""


class SlapStemConvolution(nn.Module):
    """A 3 x 3 convolution with stride 2, a norm over its channels and GELU: (N, C, H, W) to (N, C', H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, eps: float):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = SlapRMSNorm(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.convolution(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class SlapPatchStem(nn.Module):
    """Convolutions over each patch by itself, with zeros (the mean of sound) around it.

    Not in the paper: Xiao et al. 2021 (Early Convolutions Help Transformers See Better), kept inside of the patch.
    """

    def __init__(self, config: SlapAudioConfig):
        super().__init__()
        self.patch_shape = config.patch_shapes[0]
        channels = pairwise(shape[0] for shape in config.patch_shapes)
        self.layers = nn.Sequential(*(SlapStemConvolution(old, new, config.rms_norm_eps) for old, new in channels))

    def forward(self, patches: Tensor) -> Tensor:
        """(..., frames x bins of a patch) to (..., the last of `SlapAudioConfig.patch_shapes`, flat)."""
        x = self.layers(patches.reshape(-1, *self.patch_shape))
        return x.permute(0, 2, 3, 1).reshape(*patches.shape[:-1], -1)


def rotary_angles(layout: PackedLayout, config: SlapAudioConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2-D RoPE: half of the rotated pairs turn with time, half with frequency.

    Returns:
        two tensors (T, 1, D of a head / 2).
    Paper: SLAP, section 2 (2-D RoPE over time and frequency). Theta: Not stated; 10,000 as in RoFormer.
    """
    pairs = config.hidden_size // config.num_attention_heads // 4  # of one axis

    def make() -> tuple[Tensor, Tensor]:
        exponent = torch.arange(pairs, device=layout.device, dtype=torch.float32) / pairs
        frequency = config.rope_theta**-exponent  # (pairs,)
        place = torch.stack([layout.column, layout.row], 1).float()  # (T, 2)
        angle = (place[:, :, None] * frequency).flatten(1)[:, None]  # (T, 1, 2 x pairs)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    return layout.keep(("rotary", pairs, config.rope_theta, dtype), make)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of the last dimension by their angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def residual_linear(in_features: int, out_features: int, branches: int) -> nn.Linear:
    """The last layer of a residual branch: starts smaller, by the root of the number of branches.

    Not stated by the paper; as in GPT-2.
    """
    linear = nn.Linear(in_features, out_features, bias=False)
    linear.residual_branches = branches  # read by `_init_weights`
    return linear


class SlapAudioAttention(nn.Module):
    """Multi-head self-attention over packed tokens, local or global."""

    def __init__(self, config: SlapAudioConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.heads = config.num_attention_heads
        self.is_local = config.layer_types[layer_idx] == "sliding_attention"
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = residual_linear(config.hidden_size, config.hidden_size, 2 * config.num_hidden_layers)

    def forward(self, hidden: Tensor, layout: PackedLayout, cos: Tensor, sin: Tensor) -> Tensor:
        qkv = self.qkv_proj(hidden).unflatten(-1, (3, self.heads, -1))  # (T, 3, H, D of a head)
        q, k = rotate(qkv[..., :2, :, :], cos[:, None], sin[:, None]).unbind(-3)
        window = local_reach(self.config) if self.is_local else None
        out = packed_attention(q, k, qkv[..., 2, :, :], layout, window, backend_name(self.config))
        return self.o_proj(out.flatten(-2))


class SlapAudioMLP(nn.Module):
    """SwiGLU: the gate and the value come from one matrix."""

    def __init__(self, config: SlapAudioConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = residual_linear(config.intermediate_size, config.hidden_size, 2 * config.num_hidden_layers)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class SlapAudioLayer(GradientCheckpointingLayer):
    def __init__(self, config: SlapAudioConfig, layer_idx: int):
        super().__init__()
        self.attention_norm = SlapRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = SlapAudioAttention(config, layer_idx)
        self.mlp_norm = SlapRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SlapAudioMLP(config)

    def forward(self, hidden: Tensor, layout: PackedLayout, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.attention_norm(hidden), layout, cos, sin)
        return hidden + self.mlp(self.mlp_norm(hidden))


def local_reach(config: SlapAudioConfig) -> int:
    """Reach of a local layer on each side, in the unit its layout measures."""
    half = config.local_window // 2
    return half * config.patch_rows if config.local_window_unit == "patch_columns" else half


def backend_name(config: SlapAudioConfig) -> str:
    if config.attention_backend != "auto":
        return config.attention_backend
    return _BACKEND_OF_IMPLEMENTATION.get(config._attn_implementation, "auto")


class SlapAttentionPooling(nn.Module):
    """MAP: one learned query attends to all tokens, followed by an MLP with a residual.

    Paper: SLAP, section 2 (MAP head on both towers); shape as in big_vision's MAPHead, without biases.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: int, eps: float):
        super().__init__()
        self.heads = num_heads
        self.query = nn.Parameter(torch.zeros(1, hidden_size))
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = SlapRMSNorm(hidden_size, eps=eps)
        self.up_proj = nn.Linear(hidden_size, mlp_ratio * hidden_size, bias=False)
        self.down_proj = nn.Linear(mlp_ratio * hidden_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor, mask: Tensor | None, pad: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """
        Args:
            hidden: (B, N, D), or packed (T, D) together with `pad`.
            mask: (B, N) bool, True at tokens; None when all are.
            pad: turns packed (T, D) into (B, N, D), so that the projections never touch padding.
        Returns:
            (B, D).
        """
        k, v = self.k_proj(hidden), self.v_proj(hidden)
        if pad is not None:
            k, v = pad(k), pad(v)
        q = self.q_proj(self.query).expand(k.shape[0], 1, -1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, 1 or N, D of a head)
        mask = None if mask is None else mask[:, None, None, :]
        pooled = self.o_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(1))
        return pooled + self.down_proj(F.gelu(self.up_proj(self.norm(pooled))))


class SlapPreTrainedModel(PreTrainedModel):
    config_class = SlapConfig
    base_model_prefix = "slap"
    main_input_name = "input_features"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SlapAudioLayer", "SlapDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _at_rest_when_frozen: tuple[str, ...] = ()  # names of parts

    def train(self, mode: bool = True):
        """As `Module.train`; a part in `_at_rest_when_frozen` of which nothing is trained stays in evaluation mode."""
        super().train(mode)
        for part in (getattr(self, name) for name in self._at_rest_when_frozen):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, from safetensors only: opening a pickle can run code.

        Raises:
            WeightsError: a file of weights that is missing, empty, cut short, damaged or a pickle.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors=False asks for a pickle, which can run code; SLAP reads safetensors only")
        kwargs["use_safetensors"] = True
        with only_safetensors(pretrained_model_name_or_path, **kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def load_adapter(self, peft_model_id: str | None = None, *args, **kwargs):
        """As `PreTrainedModel.load_adapter`, from safetensors only."""
        with only_safetensors(peft_model_id, "adapter_model"):
            return super().load_adapter(peft_model_id, *args, **kwargs)

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs):
        refuse_pickles(checkpoint_files)  # of an adapter on the Hub, transformers takes whatever there is
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        super().save_pretrained(save_directory, *args, **kwargs)
        pipelines = Path(__file__).with_name("pipeline_slap.py")
        if "custom_pipelines" in vars(self.config) and pipelines.exists():  # named in config.json, so it travels along
            shutil.copy(pipelines, save_directory)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Models are built on the meta device when loaded: every free parameter must be set here.
        super()._init_weights(module)
        std = self.config.initializer_range
        if module is getattr(self, "classifier", None) and self.config.name_or_path:
            logger.warning("%s holds no classification head: this one is new, train it", self.config.name_or_path)
        if isinstance(module, SlapAttentionPooling):
            init.normal_(module.query, std=std)
        elif isinstance(module, SlapAudioModel):
            init.normal_(module.mask_token, std=std)
        elif hasattr(module, "residual_branches"):
            init.normal_(module.weight, std=std / module.residual_branches**0.5)
        elif isinstance(module, SlapPrototypeHead):
            init.normal_(module.prototypes, std=1.0)  # directions: only their angle counts
        elif isinstance(module, SlapCaptionDecoder) and module.mask_embedding is not None:
            init.normal_(module.mask_embedding, std=std)
        elif isinstance(module, SlapModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)


def frames_of_clips(
    input_features: Tensor, input_features_mask: Tensor | None, clip_frames: list[int] | None, config: PreTrainedConfig
) -> list[int]:
    """Frames of each clip of a padded or packed batch, checked; arguments as for `SlapAudioModel.forward`.

    Raises:
        ValueError: shapes that do not fit, a clip shorter than one patch, padding before sound.
    """
    width = config.patch_frames
    if input_features.shape[-1] != config.num_mel_bins:
        raise ValueError(
            f"input_features {tuple(input_features.shape)} must end in {config.num_mel_bins} mel bins; "
            "was it made by this model's feature extractor?"
        )
    if clip_frames is not None:  # packed: (F, M), every clip a whole number of patches
        frames = [int(n) for n in clip_frames]
        if input_features.dim() != 2 or sum(frames) != len(input_features) or any(n % width for n in frames):
            raise ValueError(
                f"packed input_features {tuple(input_features.shape)} must be (frames, mel bins) with clip_frames "
                f"that are multiples of {width} and sum to the frames; they sum to {sum(frames)}"
            )
    else:  # padded: (B, F, M)
        if input_features.dim() != 3:
            raise ValueError(
                f"input_features must be (clips, frames, mel bins), got {tuple(input_features.shape)}; "
                "packed clips (frames, mel bins) need clip_frames"
            )
        frames = [input_features.shape[1]] * len(input_features)
        if input_features_mask is not None:
            if input_features_mask.shape != input_features.shape[:2]:
                raise ValueError(
                    f"input_features_mask {tuple(input_features_mask.shape)} must be (clips, frames) "
                    f"{tuple(input_features.shape[:2])}"
                )
            mask = input_features_mask.bool()
            if (mask[:, 1:] & ~mask[:, :-1]).any():
                raise ValueError("input_features_mask must mark sound first and padding after it (right padding)")
            frames = mask.sum(1).tolist()
    short = [i for i, n in enumerate(frames) if n < width]
    if short or not frames:
        what = f"clip {short[0]} has {frames[short[0]]} frames" if short else "the batch has no clip"
        raise ValueError(f"{what}; a patch needs {width} frames ({width / config.frames_per_second:.2f} s of sound)")
    return frames


# What beside an audio encoder lies in the folders of whole models.
_NOT_AUDIO = [r"^(slap\.)?(text_|logit_|audio_projection)", r"^(decoder|lm_head|prototype_head|classifier)\b"]


class SlapAudioModel(SlapPreTrainedModel):
    """The audio encoder: clips of any duration in, dense features and one pooled feature per clip out.

    Loads alone from the folder of any SLAP model.
    Clips longer than `max_audio_seconds` are encoded in overlapping windows: dense features are stitched, and the
    pooled feature is the mean of the windows' weighted by the time each one owns.
    Paper: SLAP, section 2. Differs: tokens are time-major, so that the local window is a rule along the token index;
    frames beyond the last whole patch are dropped. Longer clips: Not stated; windows as the paper trains on 30 s.
    """

    config_class = SlapAudioConfig
    base_model_prefix = "slap.audio_model"
    input_modalities = ("audio",)
    _keys_to_ignore_on_load_unexpected = _NOT_AUDIO

    def __init__(self, config: SlapAudioConfig):
        super().__init__(config)
        self.patch_stem = SlapPatchStem(config) if config.stem_channels else None
        self.patch_embedding = nn.Linear(math.prod(config.patch_shapes[-1]), config.hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.layers = nn.ModuleList(SlapAudioLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = SlapRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pooler = SlapAttentionPooling(
            config.hidden_size, config.num_attention_heads, config.pooling_mlp_ratio, config.rms_norm_eps
        )
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        kwargs.setdefault("key_mapping", {r"^(slap\.)?audio_model\.": ""})
        return super().from_pretrained(*args, **kwargs)

    def patchify(
        self, input_features: Tensor, input_features_mask: Tensor | None, clip_frames: list[int] | None
    ) -> tuple[Tensor, list[int]]:
        """Cut log-mel frames into patches, dropping padding and frames beyond the last whole patch.

        Returns:
            patches (T, frames x bins of a patch), time-major; tokens of each clip.
        """
        config = self.config
        width, rows = config.patch_frames, config.patch_rows
        frames = frames_of_clips(input_features, input_features_mask, clip_frames, config)
        columns = [n // width for n in frames]

        x = self._cut(input_features)
        if clip_frames is None and min(columns) < x.shape[1]:
            count = torch.tensor(columns, device=x.device)
            x = x[torch.arange(x.shape[1], device=x.device) < count[:, None]]
        return x.reshape(-1, x.shape[-1]), [n * rows for n in columns]

    def _cut(self, input_features: Tensor) -> Tensor:
        """(..., F, M) frames to (..., columns, rows, frames x bins of a patch), without those beyond the last patch."""
        width = self.config.patch_frames
        x = input_features.to(self.mask_token.dtype)  # quantised layers have no weight tensor
        x = x.unfold(-2, width, width).unflatten(-2, (self.config.patch_rows, -1))  # (..., columns, rows, bins, frames)
        return x.transpose(-2, -1).flatten(-2)

    def _keep_padding(self, input_features: Tensor, input_features_mask: Tensor | None) -> tuple[Tensor, PackedLayout]:
        """As `patchify`, for a graph that is exported: patches (B, N, patch), padding among them, and their layout."""
        patches = self._cut(input_features)  # (B, columns, rows, patch)
        clips, columns, rows, _ = patches.shape
        count = torch.full((clips, 1), columns, device=patches.device)
        if input_features_mask is not None:
            count = input_features_mask.sum(1, keepdim=True) // self.config.patch_frames
        column = torch.arange(columns * rows, device=patches.device) // rows
        exact = self.config.local_window_unit == "exact_columns"
        return patches.flatten(1, 2), UnpackedLayout(column < count, rows, exact)

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        patch_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> tuple | SlapAudioModelOutput:
        """Encode a batch of clips of any lengths; every clip gets what it would get alone.

        Args:
            input_features: (B, F, M), log-mel frames padded on the right; or packed, (F of all clips, M).
            input_features_mask: (B, F), 1 at sound, 0 at padding; without it all frames are sound.
            clip_frames: for packed features, the frames of each clip, each a multiple of the patch length.
            patch_mask: (T,) bool over the packed tokens; True puts the mask token there (masked prediction).
            output_hidden_states: also return the input of every layer and the output, each (B, N, D).
            output_attentions: not served by packed attention; True is refused.
        Returns:
            SlapAudioModelOutput.
        Raises:
            ValueError: shapes that do not fit, a clip shorter than one patch, padding before sound.
        """
        if output_attentions:
            raise ValueError("packed attention keeps no attention weights; leave output_attentions off")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        config = self.config
        if torch.compiler.is_exporting():
            patches, layout = self._keep_padding(input_features, input_features_mask)
            hidden, pooled, states = self._encode(patches, layout, None, output_hidden_states)
            hidden = hidden.masked_fill(~layout.mask()[..., None], 0)
            return self._output(layout, hidden, pooled, states)
        patches, lengths = self.patchify(input_features, input_features_mask, clip_frames)
        if patch_mask is not None and patch_mask.shape != (len(patches),):
            raise ValueError(f"patch_mask {tuple(patch_mask.shape)} must have one entry per token, {len(patches)}")
        longest = None if patch_mask is None else max(lengths)
        windows, clip_of_window = [], []
        for clip, length in enumerate(lengths):
            windows += audio_windows(length // config.patch_rows, config, longest)
            clip_of_window += [clip] * (len(windows) - len(clip_of_window))

        layout = self.layout(lengths, patches.device)
        if len(windows) == len(lengths):
            hidden, pooled, states = self._encode(patches, layout, patch_mask, output_hidden_states)
        else:  # some clips are longer than what was trained: encode windows, keep of each the part it owns
            starts = layout.cu_seqlens.tolist()
            read, keep = [], []
            for clip, (start, end, own_start, own_end) in zip(clip_of_window, windows, strict=True):
                column = torch.arange(start, end).repeat_interleave(config.patch_rows)
                read.append(torch.arange(start * config.patch_rows, end * config.patch_rows) + starts[clip])
                keep.append((column >= own_start) & (column < own_end))
            read, keep = (torch.cat(x).to(patches.device) for x in (read, keep))
            sizes = [(end - start) * config.patch_rows for start, end, *_ in windows]
            in_windows = self.layout(sizes, patches.device)
            hidden, of_windows, states = self._encode(patches[read], in_windows, None, output_hidden_states)
            hidden, states = hidden[keep], [x[keep] for x in states]
            owned = [own_end - own_start for *_, own_start, own_end in windows]
            pooled = pool_windows(of_windows, owned, clip_of_window)

        return self._output(layout, hidden, pooled, states)

    def _output(
        self, layout: PackedLayout, hidden: Tensor, pooled: Tensor, states: list[Tensor]
    ) -> SlapAudioModelOutput:
        dense = layout.pad(hidden)  # (B, N, D)
        column = torch.arange(layout.longest, device=dense.device) // self.config.patch_rows
        middle = column * self.config.patch_frames + (self.config.patch_frames - 1) / 2  # in frames
        return SlapAudioModelOutput(
            last_hidden_state=dense,
            pooler_output=pooled,
            hidden_states=(*map(layout.pad, states), dense) if states else None,
            attention_mask=layout.mask(),
            token_seconds=(middle / self.config.frames_per_second).expand(dense.shape[0], -1),
        )

    def layout(self, lengths: list[int], device: torch.device) -> PackedLayout:
        """Layout of clips of the given numbers of tokens under this model's window rule."""
        exact = self.config.local_window_unit == "exact_columns"
        return PackedLayout(lengths, self.config.patch_rows, device, exact)

    def _encode(
        self, patches: Tensor, layout: PackedLayout, patch_mask: Tensor | None, keep_states: bool | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Packed patches (T, patch) of clips or windows to tokens (T, D), pooled features (B, D), layer inputs."""
        lengths = layout.lengths
        if len(lengths) > 1 and len(patches) > INFERENCE_TOKENS and not torch.is_grad_enabled():
            half = len(lengths) // 2  # bounds the memory of a large batch; no clip notices its batch mates
            sizes = [sum(lengths[:half]), sum(lengths[half:])]
            masks = (None, None) if patch_mask is None else patch_mask.split(sizes)
            layouts = (self.layout(part, patches.device) for part in (lengths[:half], lengths[half:]))
            parts = zip(patches.split(sizes), layouts, masks, strict=True)
            (h1, p1, s1), (h2, p2, s2) = (self._encode(*part, keep_states) for part in parts)
            return torch.cat([h1, h2]), torch.cat([p1, p2]), [torch.cat(pair) for pair in zip(s1, s2, strict=True)]

        hidden = self.patch_embedding(patches if self.patch_stem is None else self.patch_stem(patches))  # (T, D)
        cos, sin = rotary_angles(layout, self.config, hidden.dtype)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.float()  # the residual stream keeps its precision
        if patch_mask is not None:
            hidden = torch.where(patch_mask[:, None], self.mask_token.to(hidden.dtype), hidden)
        states = []
        for layer in self.layers:
            if keep_states:
                states.append(hidden)
            hidden = layer(hidden, layout, cos, sin)
        hidden = self.norm(hidden)
        return hidden, self.pooler(hidden, layout.mask(), layout.pad), states


@torch.compiler.disable
def pool_windows(pooled: Tensor, owned: list[int], clip_of_window: list[int]) -> Tensor:
    """The pooled feature of each clip: the mean of its windows', weighted by what each window owns.

    Args:
        pooled: (windows, D).
        owned: patch columns that each window owns.
        clip_of_window: the clip of each window, counted from 0, none left out.
    Returns:
        (clips, D).
    """
    share = torch.zeros(max(clip_of_window) + 1, len(owned), dtype=torch.float64)
    share[clip_of_window, range(len(owned))] = torch.tensor(owned, dtype=torch.float64)
    share /= share.sum(1, keepdim=True)
    return share.to(pooled.dtype).to(pooled.device) @ pooled


def audio_tower_class(config: PreTrainedConfig) -> type[SlapPreTrainedModel]:
    """The audio encoder of a configuration: SLAP's, one of CLAP's, or one registered with `AutoModel`."""
    from .cnn14_slap import SlapCnn14Model  # they build on this file
    from .htsat_slap import SlapHtsatModel
    from .windowed_slap import SlapWindowedAudioModel

    for own in (SlapAudioModel, SlapHtsatModel, SlapCnn14Model):
        if config.model_type == own.config_class.model_type:  # code beside weights may be loaded twice: not by class
            return own
    found = MODEL_MAPPING.get(type(config), None)
    if not isinstance(found, type) or not issubclass(found, SlapWindowedAudioModel):
        raise ValueError(
            f"{type(config).__name__} (model_type={config.model_type!r}) is not the configuration of an audio encoder "
            "of SLAP; derive the encoder from SlapWindowedAudioModel and call AutoModel.register(its configuration, it)"
        )
    return found


# ------------------------------------------------------------------------------------------------ joint space


class SlapResidualProjection(nn.Module):
    """CLAP's way into the joint space: a linear layer, and what an MLP adds to it.

    Paper: CLAP 2023's code (`Projection`); its weights fit by name.
    """

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(in_features, out_features, bias=False)
        self.linear2 = nn.Linear(out_features, out_features, bias=False)
        self.layer_norm = nn.LayerNorm(out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        straight = self.linear1(pooled)
        return self.layer_norm(straight + self.dropout(self.linear2(F.gelu(straight))))


def _projection(width: int, config: SlapConfig) -> nn.Module:
    if config.projection == "residual_mlp":
        return SlapResidualProjection(width, config.projection_dim, config.projection_dropout)
    return nn.Linear(width, config.projection_dim, bias=False)


class FromTowersMixin:
    """Start from pretrained towers."""

    @classmethod
    def from_audio_text_pretrained(
        cls, audio: str | PreTrainedConfig | None = None, text: str | None = None, **config_kwargs
    ):
        """A model for the start of a pretraining: towers from pretrained folders or Hub ids where given, the rest new.

        Args:
            audio: folder or Hub id of a SLAP model or audio encoder; a configuration or None starts it anew.
            text: folder or Hub id of any text model of transformers; None builds `text_config` anew.
            config_kwargs: further keywords of `SlapConfig`.
        """
        if isinstance(audio, PreTrainedConfig):
            config_kwargs["audio_config"] = audio
        elif audio is not None:
            audio_config = AutoConfig.from_pretrained(audio)
            config_kwargs["audio_config"] = getattr(audio_config, "audio_config", audio_config)
        if text is not None:
            text_config = AutoConfig.from_pretrained(text)
            config_kwargs["text_config"] = text_config
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                config_kwargs.setdefault(name, getattr(text_config, name, None))
        model = cls(SlapConfig(**config_kwargs))
        base = model.slap if isinstance(model, SlapForPreTraining) else model
        if isinstance(audio, str):
            base.audio_model = type(base.audio_model).from_pretrained(audio)
        if text is not None:
            tower = AutoModel.from_pretrained(text, dtype=base.logit_scale.dtype)  # not the dtype it was saved in
            base.text_model = _without_unused_pooler(tower, model.config)
        return model


class AudioFeaturesMixin:
    """The audio side of the joint space, for models with `audio_model` and `audio_projection`."""

    def embed_audio(self, output: SlapAudioModelOutput) -> Tensor:
        """(B, P), unit norm, from the output of the audio encoder."""
        return _unit(self.audio_projection(output.pooler_output))

    def get_audio_features(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed clips into the joint space.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
        Returns:
            `pooler_output` (B, P), unit norm; `last_hidden_state` (B, N, D), dense features; `attention_mask` and
            `token_seconds` of these.
        """
        output = self.audio_model(input_features, input_features_mask, clip_frames)
        output.pooler_output = self.embed_audio(output)
        return output


class SlapModel(FromTowersMixin, AudioFeaturesMixin, SlapPreTrainedModel):
    """Sound and language in one space.

    Paper: SLAP, section 2 and the CLAP loss of section 3. Joint width and linear projections: Not stated; 1,024 as
    in MS-CLAP and WavCaps.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(decoder|lm_head|prototype_head|classifier)\b"]
    _at_rest_when_frozen = ("text_model",)

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        audio, text = config.audio_config, config.text_config
        self.audio_model = audio_tower_class(audio)(audio)
        self.text_model = _without_unused_pooler(AutoModel.from_config(text), config)
        self.text_pooler = None
        if config.text_pooling == "map":
            ratio, eps = 4, 1e-6  # as on the audio side
            self.text_pooler = SlapAttentionPooling(text.hidden_size, text.num_attention_heads, ratio, eps)
        self.audio_projection = _projection(audio.hidden_size, config)
        self.text_projection = _projection(text.hidden_size, config)
        self.logit_scale = nn.Parameter(torch.tensor([config.logit_scale_init_value]))  # (1,): FSDP2 refuses scalars
        self.logit_bias = None
        if config.contrastive_kind == "sigmoid":
            self.logit_bias = nn.Parameter(torch.tensor([config.logit_bias_init_value]))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def clamp_logit_scale(self):
        """Call after each optimizer step: keeps the multiplier within its limit, where its gradient still flows."""
        self.logit_scale.clamp_(max=math.log(self.config.logit_scale_max) - 1e-4)

    @property
    def scale(self) -> Tensor:
        """(), multiplier of the similarities, at most `logit_scale_max`; see `clamp_logit_scale`."""
        return at_least_float32(self.logit_scale).squeeze(0).exp().clamp(max=self.config.logit_scale_max)

    @property
    def bias(self) -> Tensor | None:
        """(), added to the similarities; None for `contrastive_kind="softmax"`."""
        return None if self.logit_bias is None else at_least_float32(self.logit_bias).squeeze(0)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed texts into the joint space.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), 1 at tokens, 0 at padding.
            token_type_ids: (B, L), for towers that know them.
        Returns:
            `pooler_output` (B, P), unit norm; `last_hidden_state` (B, L, D).
        """
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        pooled = self._pool_text(output, input_ids, attention_mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=_unit(self.text_projection(pooled)),
            hidden_states=output.hidden_states,
        )

    def _pool_text(self, output: ModelOutput, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        kind, hidden = self.config.text_pooling, output.last_hidden_state
        if kind == "map":
            return self.text_pooler(hidden, None if attention_mask is None else attention_mask.bool())
        if kind == "cls":
            return hidden[:, 0]
        if kind == "pooler":
            return output.pooler_output
        if kind == "nonzero":
            return hidden[torch.arange(len(hidden), device=hidden.device), (input_ids != 0).sum(1) - 1]
        if attention_mask is None:
            attention_mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        if kind == "last":
            places = torch.arange(hidden.shape[1], device=hidden.device) * attention_mask.bool()
            return hidden[torch.arange(len(hidden), device=hidden.device), places.argmax(1)]
        weights = attention_mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        token_type_ids: Tensor | None = None,
        return_loss: bool | None = None,
    ) -> tuple | SlapOutput:
        """Embed clips and texts and compare every clip with every text.

        Args:
            input_ids, attention_mask, token_type_ids: (texts, L).
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            return_loss: also compute the contrastive loss; text i then belongs to clip i.
        Returns:
            SlapOutput.
        Raises:
            ValueError: one of the sides is missing.
        """
        if input_ids is None or input_features is None:
            missing = "input_ids" if input_ids is None else "input_features"
            raise ValueError(f"{missing} is missing; for one side alone call get_audio_features or get_text_features")
        audio_output = self.audio_model(input_features, input_features_mask, clip_frames)
        text_output = self.get_text_features(input_ids, attention_mask, token_type_ids)
        audio = self.embed_audio(audio_output)  # (clips, P)
        text = text_output.pooler_output  # (texts, P)
        logits_per_audio = self.scale.to(audio.dtype) * audio @ text.T  # (clips, texts)
        if self.bias is not None:
            logits_per_audio = logits_per_audio + self.bias.to(audio.dtype)
        loss = None
        if return_loss and self.config.contrastive_kind == "sigmoid":
            loss = sigmoid_contrastive_loss(audio, text, self.scale, self.bias)
        elif return_loss:
            loss = contrastive_loss(audio, text, self.scale)
        return SlapOutput(
            loss=loss,
            logits_per_audio=logits_per_audio,
            logits_per_text=logits_per_audio.T,
            audio_embeds=audio,
            text_embeds=text,
            text_model_output=text_output,
            audio_model_output=audio_output,
        )


class SlapAudioModelWithProjection(AudioFeaturesMixin, SlapPreTrainedModel):
    """The audio side of a SlapModel alone: `get_audio_features` without the weights of the text tower.

    Loads from the folder of any SLAP model that has a joint space.
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^(slap\.)?(text_|logit_)",
        r"^(decoder|lm_head|prototype_head|classifier)\b",
    ]
    input_modalities = ("audio",)

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        self.audio_model = audio_tower_class(config.audio_config)(config.audio_config)
        self.audio_projection = _projection(config.audio_config.hidden_size, config)
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
    ) -> tuple | BaseModelOutputWithPooling:
        """As `get_audio_features`."""
        return self.get_audio_features(input_features, input_features_mask, clip_frames)


def _without_unused_pooler(tower: PreTrainedModel, config: SlapConfig) -> PreTrainedModel:
    """A text tower without the pooling layer that BERT and its kin bring, unless it is the one that is used."""
    if config.text_pooling != "pooler" and getattr(tower, "pooler", None) is not None:
        tower.pooler = None  # its weights would never get a gradient
    return tower


def _unit(x: Tensor) -> Tensor:
    """Unit norm along the last dimension, computed in float32 at least, and left there under autocast."""
    unit = F.normalize(at_least_float32(x), dim=-1)
    return unit if torch.is_autocast_enabled(x.device.type) else unit.to(x.dtype)


# ------------------------------------------------------------------------------------------------ captions


class SlapDecoderAttention(nn.Module):
    """Causal self-attention, or cross-attention to the dense audio features."""

    def __init__(self, config: SlapDecoderConfig, layer_idx: int, is_cross: bool):
        super().__init__()
        self.config, self.layer_idx, self.is_cross = config, layer_idx, is_cross
        self.is_causal = not is_cross
        self.heads = config.num_attention_heads
        self.num_key_value_groups = 1
        source = config.cross_attention_size if is_cross else config.hidden_size
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(source, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(source, config.hidden_size, bias=False)
        self.o_proj = residual_linear(config.hidden_size, config.hidden_size, 3 * config.num_hidden_layers)

    def forward(self, hidden: Tensor, source: Tensor, mask: Tensor | None, past: Cache | None) -> Tensor:
        q = self._heads(self.q_proj(hidden))  # (B, H, L, D of a head)
        known = False
        if isinstance(past, EncoderDecoderCache):
            known = self.is_cross and past.is_updated.get(self.layer_idx)
            if self.is_cross:
                past.is_updated[self.layer_idx] = True
            past = past.cross_attention_cache if self.is_cross else past.self_attention_cache
        if known:
            k, v = past.layers[self.layer_idx].keys, past.layers[self.layer_idx].values
        else:
            k, v = self._heads(self.k_proj(source)), self._heads(self.v_proj(source))
            if past is not None:
                k, v = past.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _eager_attention)
        out, _ = attend(self, q, k, v, mask, dropout=0.0, scaling=q.shape[-1] ** -0.5, is_causal=self.is_causal)
        return self.o_proj(out.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _eager_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_
) -> tuple[Tensor, None]:
    scores = q @ k.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return (weights @ v).transpose(1, 2).contiguous(), None


class SlapDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: SlapDecoderConfig, layer_idx: int):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn_norm = SlapRMSNorm(size, eps=eps)
        self.self_attn = SlapDecoderAttention(config, layer_idx, is_cross=False)
        self.cross_attn_norm = SlapRMSNorm(size, eps=eps)
        self.cross_attn = SlapDecoderAttention(config, layer_idx, is_cross=True)
        self.mlp_norm = SlapRMSNorm(size, eps=eps)
        self.up_proj = nn.Linear(size, config.intermediate_size, bias=False)
        self.down_proj = residual_linear(config.intermediate_size, size, 3 * config.num_hidden_layers)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        sound: Tensor,
        mask: Tensor | None,
        sound_mask: Tensor | None,
        past: Cache | None,
    ) -> Tensor:
        x = self.self_attn_norm(hidden)
        hidden = hidden + self.dropout(self.self_attn(x, x, mask, past))
        hidden = hidden + self.dropout(self.cross_attn(self.cross_attn_norm(hidden), sound, sound_mask, past))
        return hidden + self.dropout(self.down_proj(F.gelu(self.up_proj(self.mlp_norm(hidden)))))


class SlapCaptionDecoder(SlapPreTrainedModel):
    """Writes a caption token by token while looking at the dense audio features before pooling.

    Paper: SLAP, section 2 (8 layers, 8 heads, width 512, causal, teacher forcing). Learned positions: Not stated; as
    in CapPa. Parallel decoding: Tschannen et al. 2023 (CapPa), section 3, and CaptionStew; that a token attends to the
    places of its own caption only is ours, so that batch mates change nothing. No biases and pre-RMSNorm: Not stated;
    as in the audio encoder.
    """

    config_class = SlapDecoderConfig
    base_model_prefix = "decoder"

    def __init__(self, config: SlapDecoderConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.mask_embedding = nn.Parameter(torch.zeros(config.hidden_size)) if config.parallel else None
        self.layers = nn.ModuleList(SlapDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = SlapRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        parallel: Tensor | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            input_ids: (B, L), tokens so far; with a cache only the new ones.
            attention_mask: (B, L with the cache), 1 at tokens.
            encoder_hidden_states: (B, N, D), dense audio features.
            encoder_attention_mask: (B, N), True at tokens.
            parallel: (B,) bool, captions to write at once: none of their tokens is seen and none waits for another.
        Raises:
            ValueError: too many tokens; `parallel` of a model without it, with a cache, or with flash attention.
        """
        if parallel is not None:
            if self.mask_embedding is None:
                raise ValueError("this decoder writes token by token only; build it with decoder_config.parallel=True")
            if use_cache or past_key_values is not None or "flash" in self.config._attn_implementation:
                raise ValueError(
                    "captions are written at once without a cache and not by flash attention, which has causal masks "
                    "only; set attn_implementation to sdpa"
                )
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        done = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + done  # (L,)
        limit = self.config.max_position_embeddings
        if isinstance(done, int) and done + input_ids.shape[1] > limit:
            raise ValueError(f"captions have at most {limit} tokens, got {done + input_ids.shape[1]}; set max_length")
        hidden = self.embed_tokens(input_ids)  # (B, L, D)
        if parallel is not None:
            hidden = torch.where(parallel[:, None, None], self.mask_embedding.to(hidden.dtype), hidden)
        hidden = hidden + self.embed_positions(positions)
        sound = encoder_hidden_states.to(hidden.dtype)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values.self_attention_cache if past_key_values is not None else None,
            # beyond the causal pairs, all pairs of a caption that is written at once
            or_mask_function=None if parallel is None else lambda caption, head, query, key: parallel[caption],
        )
        sound_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=sound,
        )
        for layer in self.layers:
            hidden = layer(hidden, sound, mask, sound_mask, past_key_values)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """(B, L) decoder inputs for teacher forcing: the caption moved right by one behind the start token."""
    shifted = labels.new_full(labels.shape, start)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == -100, pad)


class SlapAudioTower(SlapPreTrainedModel):
    """Only the audio side of a SlapModel, under the same names, for heads that need no text tower."""

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        self.audio_model = audio_tower_class(config.audio_config)(config.audio_config)
        self.post_init()


class SlapForAudioCaptioning(SlapPreTrainedModel, GenerationMixin):
    """Captions for clips, by `generate()`: greedy, beam search or sampling, with or without cache.

    Paper: SLAP, section 3 (L_CAP).
    """

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}
    _keys_to_ignore_on_load_unexpected = [
        r"^slap\.(text_|logit_|audio_projection)",
        r"^(prototype_head|classifier)\b",
    ]
    input_modalities = ("audio",)

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        if config.decoder_config is None:
            raise ValueError("this model has no caption decoder (decoder_config is null in its configuration)")
        self.slap = SlapAudioTower(config)
        self.decoder = SlapCaptionDecoder(config.decoder_config)
        self.lm_head = nn.Linear(config.decoder_config.hidden_size, config.decoder_config.vocab_size, bias=False)
        self.post_init()

    @property
    def longest_caption(self) -> int:
        """In tokens, with the end."""
        return self.config.decoder_config.max_position_embeddings

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.slap.audio_model

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    @staticmethod
    def create_masks_for_generate(config: SlapConfig, inputs_embeds, attention_mask, past_key_values, **kwargs):
        # The default would look at the text tower's configuration instead of the decoder's.
        return create_causal_mask(config.decoder_config, inputs_embeds, attention_mask, past_key_values)

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: SlapAudioModelOutput | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> tuple | Seq2SeqLMOutput:
        """Scores of the next caption token.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            decoder_input_ids: (B, L), tokens so far; made from `labels` when missing.
            encoder_outputs: of the audio encoder, in place of features; brings its own token mask.
            labels: (B, L), captions ending with the end token, -100 at padding.
        Returns:
            Seq2SeqLMOutput with `logits` (B, L, V), and `loss` when labels were given.
        """
        if encoder_outputs is None:
            encoder_outputs = self.slap.audio_model(input_features, input_features_mask, clip_frames)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("give labels or decoder_input_ids; to write captions call generate()")
            decoder_input_ids = shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)
        output = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs.last_hidden_state,
            # generate() drops input_features_mask after the first token, so the mask travels with the features
            encoder_outputs.attention_mask,
            past_key_values,
            use_cache=bool(use_cache) and labels is None,
        )
        logits = self.lm_head(output.last_hidden_state)
        return Seq2SeqLMOutput(
            loss=None if labels is None else caption_loss(logits, labels),
            logits=logits,
            past_key_values=output.past_key_values,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )


# ------------------------------------------------------------------------------------------------ pretraining


class SlapPrototypeHead(nn.Module):
    """Maps a token to where it is compared with learned prototypes, for masked prediction.

    Paper: SLAP, section 3 (MLP head and prototype scores). Sizes: Not stated; DINOv2's three-layer head.
    """

    def __init__(self, config: SlapConfig):
        super().__init__()
        hidden, bottleneck = config.prototype_hidden_size, config.prototype_bottleneck_size
        self.mlp = nn.Sequential(
            nn.Linear(config.audio_config.hidden_size, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.zeros(config.num_prototypes, bottleneck))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) tokens to features (n, W), and the prototypes (K, W); both unit norm. Their cosines are the scores:
        a table too large to keep."""
        return _unit(self.mlp(hidden)), _unit(self.prototypes)


class SlapForPreTraining(FromTowersMixin, SlapPreTrainedModel):
    """All parts that are trained together. Its folder serves every other class of this file.

    Paper: SLAP, sections 2 and 3. Contrastive and captioning read the clean pass, masked prediction a second, masked
    pass: Not stated; as SigLIP 2 and TIPS. `shared_masked_pass` takes all three from the masked pass instead.
    """

    _tied_weights_keys = {"lm_head.weight": "decoder.embed_tokens.weight"}
    _keys_to_ignore_on_load_unexpected = [r"^classifier\b"]

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        self.slap = SlapModel(config)
        self.decoder = self.lm_head = None
        if config.decoder_config is None:
            self._tied_weights_keys = {}  # of this model alone: it has no captioner
        else:
            self.decoder = SlapCaptionDecoder(config.decoder_config)
            self.lm_head = nn.Linear(config.decoder_config.hidden_size, config.decoder_config.vocab_size, bias=False)
        has_mask_token = hasattr(self.slap.audio_model, "mask_token")
        self.prototype_head = SlapPrototypeHead(config) if has_mask_token else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.slap.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        caption_parallel: Tensor | None = None,
        patch_mask: Tensor | None = None,
        shared_masked_pass: bool = False,
    ) -> tuple | SlapPreTrainingOutput:
        """Run the parts that the given inputs ask for, without any loss.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            input_ids, attention_mask: (B, L), a caption of each clip for the contrastive loss; None leaves it out.
            labels: (B, L), a caption of each clip to write, -100 at padding; None leaves captioning out.
            caption_parallel: (B,) bool, captions to write at once, the others token by token; None writes all so.
            patch_mask: (T,) bool, tokens to predict; None leaves masked prediction out.
            shared_masked_pass: one audio pass, the masked one, for everything.
        Returns:
            SlapPreTrainingOutput.
        """
        sound = (input_features, input_features_mask, clip_frames)
        needs_clean = input_ids is not None or labels is not None
        masked = None if patch_mask is None else self.slap.audio_model(*sound, patch_mask=patch_mask)
        heard = masked
        if needs_clean and (masked is None or not shared_masked_pass):
            heard = self.slap.audio_model(*sound)

        audio = text = caption_logits = prototype_features = prototypes = None
        if input_ids is not None:
            audio = self.slap.embed_audio(heard)
            text = self._embed_texts(input_ids, attention_mask)
        if labels is not None:
            start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
            tokens = shift_right(labels, start, pad)
            # token by token, nothing comes after padding; at once, everything does
            known = None if caption_parallel is None else labels != -100
            written = self.decoder(
                tokens, known, heard.last_hidden_state, heard.attention_mask, parallel=caption_parallel
            )
            caption_logits = self.lm_head(written.last_hidden_state)
        if masked is not None:
            tokens = masked.last_hidden_state[masked.attention_mask]  # (T, D), packed again
            prototype_features, prototypes = self.prototype_head(tokens[patch_mask])
        return SlapPreTrainingOutput(
            audio_embeds=audio,
            text_embeds=text,
            logit_scale=self.slap.scale,
            logit_bias=self.slap.bias,
            caption_logits=caption_logits,
            prototype_features=prototype_features,
            prototypes=prototypes,
        )

    def _embed_texts(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(B, P). A frozen tower on a CPU reads texts of about one length together, which saves most of the padding."""
        read = self.slap.get_text_features
        if attention_mask is None or self.slap.text_model.training or input_ids.device.type != "cpu":
            return read(input_ids, attention_mask).pooler_output
        order = attention_mask.sum(1).argsort()
        embeds = []
        for rows in order.tensor_split(_TEXT_GROUPS):
            rows = rows if len(rows) else order[:1]  # as many calls on every rank
            mask = attention_mask[rows]
            longest = int(mask.any(0).nonzero().max()) + 1 if mask.any() else mask.shape[1]
            embeds.append(read(input_ids[rows, :longest], mask[:, :longest]).pooler_output)
        return torch.cat(embeds)[: len(order)][order.argsort()]


# ------------------------------------------------------------------------------------------------ classification


class SlapForAudioClassification(SlapPreTrainedModel):
    """A linear layer on the pooled clip feature: linear probe or full fine-tuning, single- or multi-label.

    The head is new when the folder comes from pretraining: train it before use. `problem_type` is that of
    transformers; without it integer labels (B,) mean one class each and float labels (B, classes) several.
    """

    _keys_to_ignore_on_load_unexpected = [r"^slap\.(text_|logit_|audio_projection)", r"^(decoder|lm_head|prototype_head)\b"]  # fmt: skip # noqa: E501
    _keys_to_ignore_on_load_missing = [r"^classifier\b"]
    input_modalities = ("audio",)

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        self.slap = SlapAudioTower(config)
        self.classifier = nn.Linear(config.audio_config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        labels: Tensor | None = None,
    ) -> tuple | SequenceClassifierOutput:
        """Class scores of clips.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            labels: (B,) class numbers, or (B, classes) of 0 and 1 for several classes at once.
        Returns:
            SequenceClassifierOutput with `logits` (B, classes).
        """
        pooled = self.slap.audio_model(input_features, input_features_mask, clip_frames).pooler_output
        logits = self.classifier(pooled)
        loss = None
        if labels is not None:
            kind = self.config.problem_type
            if kind == "multi_label_classification" or (kind is None and labels.dim() == 2):
                loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
            elif kind in (None, "single_label_classification"):
                loss = F.cross_entropy(logits.float(), labels)
            else:
                raise ValueError(f"problem_type={kind!r} is not served; use single_ or multi_label_classification")
        return SequenceClassifierOutput(loss=loss, logits=logits)


__all__ = [
    "SlapAudioModel",
    "SlapAudioModelOutput",
    "SlapAudioModelWithProjection",
    "SlapForAudioCaptioning",
    "SlapForAudioClassification",
    "SlapForPreTraining",
    "SlapModel",
    "SlapOutput",
    "SlapPreTrainedModel",
    "SlapPreTrainingOutput",
]
