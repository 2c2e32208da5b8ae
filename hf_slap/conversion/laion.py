"""LAION's CLAP, plain or with feature fusion, to the `ClapModel` of transformers."""

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    ClapTextConfig,
)

from .checkpoint import check_front_end, htsat_dropped, htsat_rules, htsat_sizes, load_strictly, rename, split_qkv
from .msclap import Converted, bert_sizes, check_vocabulary, shapes_of

TEXT_TOKENS = 77
FUSION = "audio_branch.patch_embed.fusion_model."
COMPUTED = ("text_model.embeddings.position_ids", "text_model.embeddings.token_type_ids")
BESIDE = "of an MLP that only a part of the training loss went through; transformers' ClapModel has none"
RULES = {
    **htsat_rules("audio_branch.", "audio_model.audio_encoder."),
    r"(audio|text)_projection\.0\.(.*)": r"\1_projection.linear1.\2",
    r"(audio|text)_projection\.2\.(.*)": r"\1_projection.linear2.\2",
    r"text_branch\.(.*)": r"text_model.\1",
    r"logit_scale_([at])": r"logit_scale_\1",
}
DROPPED = {
    **htsat_dropped("audio_branch."),
    r"(audio|text)_transform\..*": BESIDE,
    r"text_branch\.embeddings\.(position_ids|token_type_ids)": "numbers of the places: computed",
}


def convert_laion(state: dict[str, Tensor], tokenizer: str = "roberta-base") -> Converted:
    """HTSAT of any size and RoBERTa, with or without feature fusion.

    Args:
        state: as `read_checkpoint` gives it.
        tokenizer: folder or Hub id of RoBERTa's.
    Raises:
        ConversionError: see `rename`, `load_strictly`, `check_front_end`; a tokenizer of another size.
    """
    shape, base = shapes_of(state), "text_branch."
    is_fused = any(key.startswith(FUSION) for key in state)
    config = ClapConfig(
        text_config=ClapTextConfig(
            **bert_sizes(state, base),
            layer_norm_eps=1e-5,  # RoBERTa's; that of ClapTextConfig differs
            type_vocab_size=shape(f"{base}embeddings.token_type_embeddings.weight")[0],
            projection_dim=shape("text_projection.0.weight")[0],
        ).to_dict(),
        audio_config=ClapAudioConfig(
            **_audio_sizes(state),
            projection_dim=shape("audio_projection.0.weight")[0],
            enable_fusion=is_fused,
            fusion_type="aff_2d" if is_fused else None,
        ).to_dict(),
        projection_dim=shape("audio_projection.0.weight")[0],
    )
    extractor = ClapFeatureExtractor(
        frequency_min=50, frequency_max=14_000, truncation="fusion" if is_fused else "rand_trunc"
    )
    window = torch.hann_window(extractor.fft_window_size, dtype=torch.float64).numpy()
    check_front_end(state, "audio_branch.", window, {"50 to 14000 Hz at 48000 Hz": extractor.mel_filters_slaney})
    model = ClapModel(config).eval()
    weights, dropped = rename(split_qkv(state), RULES, DROPPED)
    weights.update({key: value for key, value in model.state_dict().items() if key in COMPUTED})
    load_strictly(model, weights)
    made = AutoTokenizer.from_pretrained(tokenizer, model_max_length=TEXT_TOKENS)
    check_vocabulary(made, tokenizer, config.text_config.vocab_size)
    return Converted(model, ClapProcessor(feature_extractor=extractor, tokenizer=made), dropped)


def _audio_sizes(state: dict[str, Tensor]) -> dict:
    sizes = htsat_sizes(state, "audio_branch.")
    return {
        **sizes,
        "patch_stride": [sizes["patch_size"]] * 2,
        "num_hidden_layers": len(sizes["depths"]),
    }
