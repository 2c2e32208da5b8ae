"""The model itself: the files that are uploaded beside the weights, installed as `hf_slap.modeling`.

Names are looked up on first use, so that `import hf_slap.modeling.feature_extraction_slap` loads no model code.
"""

from importlib import import_module

if __name__ == "modeling":
    raise ImportError(
        "`import modeling` would load a second copy of every class; write `import hf_slap.modeling` "
        "(after `pip install -e .` in a checkout)"
    )

_EXPORTS = {
    "audio_slap": ["AudioError"],
    "clapcap_slap": ["SlapForPrefixCaptioning", "SlapPrefixConfig"],
    "cnn14_slap": ["SlapCnn14Model"],
    "configuration_slap": [
        "SlapAudioConfig",
        "SlapCnn14Config",
        "SlapConfig",
        "SlapDecoderConfig",
        "SlapHtsatConfig",
        "SlapWindowedAudioConfig",
    ],
    "feature_extraction_slap": ["SlapFeatureExtractor"],
    "htsat_slap": ["SlapHtsatModel"],
    "losses_slap": ["caption_loss", "contrastive_loss", "sigmoid_contrastive_loss"],
    "modeling_slap": [
        "SlapAudioModel",
        "SlapAudioModelWithProjection",
        "SlapForAudioCaptioning",
        "SlapForAudioClassification",
        "SlapForPreTraining",
        "SlapModel",
    ],
    "pipeline_slap": ["AudioCaptioningPipeline", "AudioEmbeddingPipeline"],
    "processing_slap": ["SlapProcessor"],
    "windowed_slap": ["SlapWindowedAudioModel"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
