"""SLAP, Scalable Language-Audio Pretraining, as a Hugging Face model package.

Importing the package makes transformers' Auto classes know SLAP's classes, and `pipeline` its tasks, as soon as
transformers is used; the names below are looked up on first use. It opens no file and no connection.
"""
# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .late_registration import register_when_needed

if TYPE_CHECKING:  # for editors; `_MODULES` is what counts
    from .embedding import Embeddings, embed
    from .evaluation.run import evaluate
    from .listening import Listener
    from .modeling.audio_slap import AudioError
    from .modeling.clapcap_slap import SlapForPrefixCaptioning, SlapPrefixConfig
    from .modeling.cnn14_slap import SlapCnn14Model
    from .modeling.configuration_slap import (
        SlapAudioConfig,
        SlapCnn14Config,
        SlapConfig,
        SlapDecoderConfig,
        SlapHtsatConfig,
        SlapWindowedAudioConfig,
    )
    from .modeling.feature_extraction_slap import SlapFeatureExtractor
    from .modeling.htsat_slap import SlapHtsatModel
    from .modeling.modeling_slap import (
        SlapAudioModel,
        SlapAudioModelWithProjection,
        SlapForAudioCaptioning,
        SlapForAudioClassification,
        SlapForPreTraining,
        SlapModel,
    )
    from .modeling.pipeline_slap import AudioCaptioningPipeline, AudioEmbeddingPipeline
    from .modeling.processing_slap import SlapProcessor
    from .modeling.windowed_slap import SlapWindowedAudioModel
    from .registration import register, save_folder
    from .shipped import bundled, bundled_sounds

__version__ = "0.1.0"

_MODULES = {  # public names, by the module that has them
    "embedding": ["Embeddings", "embed"],
    "evaluation.run": ["evaluate"],
    "listening": ["Listener"],
    "modeling.audio_slap": ["AudioError"],
    "modeling.clapcap_slap": ["SlapForPrefixCaptioning", "SlapPrefixConfig"],
    "modeling.cnn14_slap": ["SlapCnn14Model"],
    "modeling.configuration_slap": [
        "SlapAudioConfig",
        "SlapCnn14Config",
        "SlapConfig",
        "SlapDecoderConfig",
        "SlapHtsatConfig",
        "SlapWindowedAudioConfig",
    ],
    "modeling.feature_extraction_slap": ["SlapFeatureExtractor"],
    "modeling.htsat_slap": ["SlapHtsatModel"],
    "modeling.modeling_slap": [
        "SlapAudioModel",
        "SlapAudioModelWithProjection",
        "SlapForAudioCaptioning",
        "SlapForAudioClassification",
        "SlapForPreTraining",
        "SlapModel",
    ],
    "modeling.pipeline_slap": ["AudioCaptioningPipeline", "AudioEmbeddingPipeline"],
    "modeling.processing_slap": ["SlapProcessor"],
    "modeling.windowed_slap": ["SlapWindowedAudioModel"],
    "registration": ["register", "save_folder"],
    "shipped": ["bundled", "bundled_sounds"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        return value
    if not name.startswith("_"):
        try:
            return import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
