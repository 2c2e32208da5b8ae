"""SLAP, Scalable Language-Audio Pretraining, as a Hugging Face model package.

Importing the package registers its classes with transformers' Auto classes and its tasks with `pipeline`.
It opens no file and no connection.
"""

from .embedding import Embeddings, embed
from .evaluation.run import evaluate
from .modeling.audio_slap import AudioError
from .modeling.configuration_slap import SlapAudioConfig, SlapConfig, SlapDecoderConfig
from .modeling.feature_extraction_slap import SlapFeatureExtractor
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
from .registration import register, save_folder

__version__ = "0.1.0"

__all__ = [
    "AudioCaptioningPipeline",
    "AudioEmbeddingPipeline",
    "AudioError",
    "Embeddings",
    "SlapAudioConfig",
    "SlapAudioModel",
    "SlapAudioModelWithProjection",
    "SlapConfig",
    "SlapDecoderConfig",
    "SlapFeatureExtractor",
    "SlapForAudioCaptioning",
    "SlapForAudioClassification",
    "SlapForPreTraining",
    "SlapModel",
    "SlapProcessor",
    "embed",
    "evaluate",
    "register",
    "save_folder",
]

register()
