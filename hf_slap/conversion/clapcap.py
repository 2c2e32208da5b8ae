"""ClapCap (Microsoft's captioner on CLAP 2023) to `SlapForPrefixCaptioning`."""

import torch
from torch import Tensor

from ..modeling.clapcap_slap import SlapForPrefixCaptioning, SlapPrefixConfig
from ..modeling.processing_slap import SlapProcessor
from .checkpoint import ConversionError, load_strictly, rename, split_qkv
from .msclap import Converted, feature_extractor, gpt2_config, gpt2_tokenizer, htsat_config, htsat_names

AUDIO, MAPPER, WRITER = "clap.base.htsat.", "clap_project.", "gpt.transformer."
MAPPER_HEADS = 8  # the one size of the mapper that weights do not show
CAPTION_TOKENS = 67
BEAMS = 5


def convert_clapcap(state: dict[str, Tensor], tokenizer: str = "gpt2", compat: bool = False) -> Converted:
    """ClapCap: the audio side of CLAP 2023, a mapper and GPT-2. It writes with 5 beams, at most 67 tokens.

    Args:
        state: as `read_checkpoint` gives it.
        tokenizer: folder or Hub id of GPT-2's.
        compat: hear, search and end captions as the original does (see `convert` and
            `SlapForPrefixCaptioning.generate`).
    Raises:
        ConversionError: see `rename`, `load_strictly`, `check_front_end`; a tokenizer of another size.
    """
    rules, dropped = htsat_names(AUDIO, "slap.audio_model.")
    mapper = r"clap_project\.transformer\.layers\.(\d+)\."
    rules |= {
        r"clap\.projection\.(.*)": r"slap.audio_projection.\1",
        r"clap_project\.linear\.(.*)": r"mapper.projection.\1",
        r"clap_project\.prefix_const": "mapper.prefix",
        mapper + r"(norm[12]\..*)": r"mapper.layers.\1.\2",
        mapper + r"mlp\.(fc[12]\..*)": r"mapper.layers.\1.\2",
        mapper + r"attn\.(qkv_proj\..*)": r"mapper.layers.\1.\2",
        mapper + r"attn\.project\.(.*)": r"mapper.layers.\1.o_proj.\2",
        r"gpt\.(.*)": r"language_model.\1",
    }
    dropped[r"gpt\.transformer\.h\.\d+\.attn\.(masked_)?bias"] = "causal mask of GPT-2: computed"
    weights, left_out = rename(_join_qkv(split_qkv(state)), rules, dropped)
    missing = sorted({"mapper.prefix", "mapper.projection.bias", "mapper.layers.0.fc1.weight"} - weights.keys())
    if missing:
        raise ConversionError(f"the checkpoint has no {missing}: it is no ClapCap with a transformer between its parts")
    head, words = weights["language_model.lm_head.weight"], weights["language_model.transformer.wte.weight"]
    if not torch.equal(head, words):
        raise ConversionError("gpt.lm_head.weight is not gpt.transformer.wte.weight, which GPT-2 shares with it")

    audio_config, text_config = htsat_config(state, AUDIO), gpt2_config(state, WRITER)
    made = gpt2_tokenizer(tokenizer, CAPTION_TOKENS, text_config.vocab_size, ends=(), pad_token=None)
    prefix_tokens, width = weights["mapper.prefix"].shape
    config = SlapPrefixConfig(
        audio_config=audio_config,
        text_config=text_config,
        projection="residual_mlp",
        projection_dim=weights["mapper.projection.weight"].shape[1],
        prefix_tokens=prefix_tokens,
        projected_tokens=len(weights["mapper.projection.bias"]) // width,
        mapper_layers=len({name.split(".")[2] for name in weights if name.startswith("mapper.layers.")}),
        mapper_heads=MAPPER_HEADS,
        mapper_mlp_ratio=len(weights["mapper.layers.0.fc1.weight"]) // width,
        max_caption_tokens=CAPTION_TOKENS,
        compat=compat,
        compat_end_token_id=made(f" {made.eos_token}")["input_ids"][0],  # the original takes the first of the two
        bos_token_id=made.eos_token_id,
        eos_token_id=made.eos_token_id,
        pad_token_id=made.pad_token_id,
    )
    model = SlapForPrefixCaptioning(config).eval()
    load_strictly(model, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
    model.generation_config.update(num_beams=BEAMS, max_new_tokens=CAPTION_TOKENS)
    return Converted(model, SlapProcessor(feature_extractor(audio_config, compat), made), left_out)


def _join_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mapper keeps its queries apart from its keys and values; ours has the three in one matrix."""
    joined = {key: value for key, value in state.items() if ".attn.to_" not in key}
    for key, queries in state.items():
        if key.endswith(".attn.to_queries.weight"):
            others = state.get(key.replace("to_queries", "to_keys_values"))
            if others is None:
                raise ConversionError(f"the checkpoint holds {key!r} and no keys and values beside it")
            joined[key.replace("to_queries", "qkv_proj")] = torch.cat([queries, others])
    return joined
