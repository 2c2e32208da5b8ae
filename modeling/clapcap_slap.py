"""ClapCap's captioner: one embedding of the sound, turned into a prefix that a language model goes on from.

The audio side of a SLAP model and the language model may both stay as they are; the mapper between them is all that
has to be learned. (Deshmukh et al. 2024, "Training Audio Captioning Models without Audio", after ClipCap.)
Letters: B clips, J width of the joint space, D width of the language model, S slots of the prefix, L caption tokens,
V vocabulary, K beams.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig
from transformers import initialization as init
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling, Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_slap import SlapConfig
from .losses_slap import caption_loss
from .modeling_slap import SlapAudioModelWithProjection, SlapPreTrainedModel

AUDIO_SIDE = ("audio_config", "projection", "projection_dim", "projection_dropout", "initializer_range")
COMPAT_KEYWORDS = ("max_length", "max_new_tokens", "num_beams", "num_return_sequences", "temperature")


@strict
class SlapPrefixConfig(SlapConfig):
    """The audio side of a SLAP model, a mapper, and a language model that writes. The defaults are ClapCap's.

    Args:
        text_config: of the language model, any causal one of transformers; without `model_type` it is GPT-2.
        prefix_tokens: slots that are learned, and handed to the language model.
        projected_tokens: slots projected from the embedding, which the learned ones look at.
        mapper_layers, mapper_heads, mapper_mlp_ratio: the transformer over both kinds of slots.
        max_caption_tokens: the longest caption.
        compat: search captions as the original does, unless `generate()` is told otherwise.
        compat_end_token_id: what ends a caption then: the space alone, in GPT-2's vocabulary.
    Other fields are those of `SlapConfig`, of which only the audio side's count.
    Raises:
        ValueError: as `SlapConfig`; heads that do not divide the width of the language model; a prefix and a caption
            longer than it can read.
    Source: the published ClapCap checkpoint and msclap 1.3.4, which runs it.
    """

    model_type = "slap_prefix"
    sub_configs = {"audio_config": AutoConfig, "text_config": AutoConfig}

    prefix_tokens: int = 40
    projected_tokens: int = 40
    mapper_layers: int = 8
    mapper_heads: int = 8
    mapper_mlp_ratio: int = 2
    max_caption_tokens: int = 67
    compat: bool = False
    compat_end_token_id: int = 220
    decoder_config: dict | PreTrainedConfig | bool | None = None
    is_encoder_decoder: bool = False
    bos_token_id: int | None = 50_256
    eos_token_id: int | None = 50_256
    pad_token_id: int | None = 50_256

    def __post_init__(self, **kwargs: Any):
        if not isinstance(self.text_config, PreTrainedConfig):
            ends = {name: getattr(self, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            self.text_config = {"model_type": "gpt2", **ends, **(self.text_config or {})}
        super().__post_init__(**kwargs)

    def validate_mapper(self):
        text = self.text_config
        if text.hidden_size % self.mapper_heads:
            raise ValueError(f"mapper_heads={self.mapper_heads} must divide the language model's {text.hidden_size}")
        limit, needed = text.max_position_embeddings, self.prefix_tokens + self.max_caption_tokens
        if needed > limit:
            raise ValueError(
                f"prefix_tokens={self.prefix_tokens} and max_caption_tokens={self.max_caption_tokens} are more than "
                f"the {limit} positions of the language model"
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.text_config


# ------------------------------------------------------------------------------------------------ mapper


class SlapPrefixLayer(nn.Module):
    """Pre-norm self-attention and MLP; queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_ratio * width)
        self.fc2 = nn.Linear(mlp_ratio * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        qkv = self.qkv_proj(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1))  # (B, slots, 3, H, D of a head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (B, H, slots, D of a head)
        hidden = hidden + self.o_proj(attended.transpose(1, 2).flatten(2))
        return hidden + self.fc2(F.relu(self.fc1(self.norm2(hidden))))


class SlapPrefixMapper(nn.Module):
    """An embedding to the prefix: (B, J) to (B, S, D)."""

    def __init__(self, config: SlapPrefixConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.projection = nn.Linear(config.projection_dim, config.projected_tokens * width)
        self.prefix = nn.Parameter(torch.zeros(config.prefix_tokens, width))
        self.layers = nn.ModuleList(
            SlapPrefixLayer(width, config.mapper_heads, config.mapper_mlp_ratio) for _ in range(config.mapper_layers)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        learned = self.prefix.expand(len(embedding), -1, -1)
        projected = self.projection(embedding).unflatten(-1, (-1, learned.shape[-1]))
        hidden = torch.cat([projected, learned], dim=1)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden[:, projected.shape[1] :]


# ------------------------------------------------------------------------------------------------ captioner


class SlapForPrefixCaptioning(SlapPreTrainedModel, GenerationMixin):
    """Captions for clips by a language model that reads a prefix, by `generate()`.

    Which parts are frozen is up to the training; a part of which nothing is trained stays in evaluation mode.
    Source: ClapCap, as msclap 1.3.4 runs it. Differs: `generate()` is transformers' own and ends at the end token;
    `generate(compat=True)` searches and ends as the original does.
    """

    config_class = SlapPrefixConfig
    input_modalities = ("audio",)
    _no_split_modules = ["SlapAudioLayer", "SlapPrefixLayer", "GPT2Block"]
    _at_rest_when_frozen = ("slap", "language_model")
    _keys_to_ignore_on_load_unexpected = [r"^slap\.(text_|logit_)", r"^(decoder|lm_head|prototype_head|classifier)\b"]

    def __init__(self, config: SlapPrefixConfig):
        super().__init__(config)
        self.slap = SlapAudioModelWithProjection(config)
        self.mapper = SlapPrefixMapper(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, SlapPrefixMapper):
            init.normal_(module.prefix, std=1.0)  # as ClapCap

    @classmethod
    def from_audio_language_pretrained(cls, audio: str, language_model: str | PreTrainedConfig, **config_kwargs: Any):
        """A captioner for the start of a training: its mapper is new.

        Args:
            audio: folder or Hub id of a SLAP model, whose audio side is taken.
            language_model: folder or Hub id of a causal language model of transformers; a configuration starts it anew.
            config_kwargs: further keywords of `SlapPrefixConfig`.
        """
        heard = SlapAudioModelWithProjection.from_pretrained(audio)
        loaded = not isinstance(language_model, PreTrainedConfig)
        text_config = AutoConfig.from_pretrained(language_model) if loaded else language_model
        of_slap = {name: getattr(heard.config, name) for name in AUDIO_SIDE}
        tokens = {name: getattr(text_config, name) for name in ("bos_token_id", "eos_token_id")}
        pad = getattr(text_config, "pad_token_id", None)
        pad = text_config.eos_token_id if pad is None else pad
        model = cls(
            SlapPrefixConfig(**{**of_slap, **tokens, "pad_token_id": pad, "text_config": text_config, **config_kwargs})
        )
        model.slap = heard
        if loaded:  # not in the dtype that it was saved in
            model.language_model = AutoModelForCausalLM.from_pretrained(language_model, dtype=heard.dtype)
        return model

    @property
    def longest_caption(self) -> int:
        """In tokens, with the end."""
        return self.config.max_caption_tokens

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.slap

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_audio_features(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
    ) -> tuple | BaseModelOutputWithPooling:
        """As `SlapModel.get_audio_features`."""
        return self.slap.get_audio_features(input_features, input_features_mask, clip_frames)

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        encoder_outputs: BaseModelOutputWithPooling | None = None,
        labels: Tensor | None = None,
    ) -> tuple | Seq2SeqLMOutput:
        """Scores of every token of given captions.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            encoder_outputs: of `get_audio_features`, in place of features.
            labels: (B, L), captions ending with the end token, -100 at padding.
        Returns:
            Seq2SeqLMOutput with `logits` (B, L, V), those at i of the token i, and `loss`.
        """
        if labels is None:
            raise ValueError("give labels; to write captions call generate()")
        prefix = self._prefix(input_features, input_features_mask, clip_frames, encoder_outputs)  # (B, S, D)
        # Nothing is seen after padding, so that any token may stand there.
        tokens = self.get_input_embeddings()(labels[:, :-1].clamp(min=0))  # (B, L - 1, D)
        hidden = torch.cat([prefix, tokens.to(prefix.dtype)], dim=1)
        logits = self.language_model(inputs_embeds=hidden, use_cache=False, logits_to_keep=labels.shape[1]).logits
        return Seq2SeqLMOutput(loss=caption_loss(logits, labels), logits=logits)

    def _prefix(
        self,
        input_features: Tensor | None,
        input_features_mask: Tensor | None,
        clip_frames: list[int] | None,
        encoder_outputs: BaseModelOutputWithPooling | None,
    ) -> Tensor:
        if encoder_outputs is None:
            encoder_outputs = self.get_audio_features(input_features, input_features_mask, clip_frames)
        return self.mapper(encoder_outputs.pooler_output)  # of unit norm

    @torch.no_grad()
    def generate(
        self,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        encoder_outputs: BaseModelOutputWithPooling | None = None,
        compat: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Writes captions.

        Args:
            input_features, input_features_mask, clip_frames, encoder_outputs: as for `forward`.
            compat: search and end as msclap's `generate_caption`: 5 beams unless `num_beams` is given, ranked after
                every token by their mean log-probability, to the first `compat_end_token_id`. None: as the
                configuration says.
            kwargs: of transformers' `generate()`; `max_length` counts caption tokens, not the prefix. With `compat`
                only `COMPAT_KEYWORDS`.
        Returns:
            (B x num_return_sequences, L), caption tokens, or what `return_dict_in_generate` asks for.
        Raises:
            ValueError: unknown keywords, or a caption longer than the language model can read.
        """
        compat = self.config.compat if compat is None else compat
        settings = kwargs.pop("generation_config", None) or self.generation_config
        longest = next(
            (n for n in (kwargs.pop("max_new_tokens", None), kwargs.pop("max_length", None),
                         settings.max_new_tokens, settings.max_length) if n is not None),
            self.longest_caption,
        )  # fmt: skip
        limit = self.config.text_config.max_position_embeddings - self.config.prefix_tokens
        if longest > limit:
            raise ValueError(f"captions have at most {limit} tokens after the prefix, got max_length={longest}")
        if compat and (unknown := sorted(set(kwargs) - set(COMPAT_KEYWORDS))):
            raise ValueError(f"compat=True takes no {unknown}; accepted are {sorted(COMPAT_KEYWORDS)}")
        prefix = self._prefix(input_features, input_features_mask, clip_frames, encoder_outputs)
        if compat:
            tokens = search_by_mean(
                self.language_model,
                prefix,
                self.config.compat_end_token_id,
                beams=kwargs.get("num_beams", 5),
                steps=longest,
                temperature=kwargs.get("temperature", 1.0),
                pad=self.config.pad_token_id,
            )
            return tokens[:, : kwargs.get("num_return_sequences", 1)].flatten(0, 1)
        settings = copy.deepcopy(settings)
        others = settings.update(**kwargs, max_new_tokens=longest, max_length=None)
        mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
        return self.language_model.generate(
            inputs_embeds=prefix, attention_mask=mask, generation_config=settings, **others
        )


def search_by_mean(
    language_model: nn.Module,
    prefix: Tensor,
    end: int,
    beams: int = 5,
    steps: int = 67,
    temperature: float = 1.0,
    pad: int = 0,
) -> Tensor:
    """Beam search that ranks unfinished and finished captions alike by their mean log-probability, at every step.

    Args:
        language_model: causal, with a cache.
        prefix: (B, S, D).
        end: token that ends a caption, and counts as one of it.
        steps: tokens of the longest caption.
        temperature: the logits are divided by it.
        pad: stands after the end.
    Returns:
        (B, K, L), the captions of each clip, best first.
    Source: msclap 1.3.4, `_generate_beam`; the clips of a batch are searched at once.
    """
    clips = len(prefix)
    first = torch.arange(clips, device=prefix.device)[:, None] * beams  # (B, 1), row of each clip's first beam
    cache = DynamicCache(config=language_model.config)

    def log_probabilities(read: Tensor) -> Tensor:
        output = language_model(inputs_embeds=read, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return (output.logits[:, -1].float() / temperature).log_softmax(-1)

    sums, tokens = log_probabilities(prefix).topk(beams)  # (B, K)
    cache.batch_repeat_interleave(beams)
    captions = tokens[..., None]  # (B, K, L)
    lengths = torch.ones_like(sums)
    ended = tokens == end
    for _ in range(steps - 1):
        if ended.all():
            break
        words = language_model.get_input_embeddings()(captions[..., -1:].flatten(0, 1))
        scores = log_probabilities(words).unflatten(0, (clips, beams))
        # An ended caption has one continuation, which costs nothing.
        scores[ended] = -torch.inf
        scores[..., 0][ended] = 0.0
        lengths = lengths + (~ended)
        means = (sums[..., None] + scores) / lengths[..., None]  # (B, K, V)
        means, chosen = means.flatten(1).topk(beams)
        source, tokens = chosen // scores.shape[-1], chosen % scores.shape[-1]  # (B, K)
        lengths = lengths.gather(1, source)
        sums = means * lengths
        captions = captions.gather(1, source[..., None].expand_as(captions))
        captions = torch.cat([captions, tokens[..., None]], dim=-1)
        ended = ended.gather(1, source) | (tokens == end)
        cache.reorder_cache((first + source).flatten())
    order = (sums / lengths).argsort(dim=1, descending=True)
    captions = captions.gather(1, order[..., None].expand_as(captions))
    kept = torch.arange(captions.shape[-1], device=captions.device) < lengths.gather(1, order)[..., None]
    return captions.where(kept, pad)


__all__ = ["SlapForPrefixCaptioning", "SlapPrefixConfig"]
