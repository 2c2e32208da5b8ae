"""Makes transformers' Auto classes and `pipeline` know SLAP, and writes folders that are known without this package.

transformers has no plug-in mechanism. A SLAP folder is understood after `import hf_slap`, which calls `register`, or
with `trust_remote_code=True`, from the code and the entries in config.json that `save_folder` puts into it.
"""

import json
import os
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling.clapcap_slap import SlapForPrefixCaptioning, SlapPrefixConfig
from .modeling.cnn14_slap import SlapCnn14Model
from .modeling.configuration_slap import SlapConfig, SlapDecoderConfig
from .modeling.feature_extraction_slap import SlapFeatureExtractor
from .modeling.htsat_slap import SlapHtsatModel
from .modeling.modeling_slap import (
    SlapAudioModel,
    SlapForAudioCaptioning,
    SlapForAudioClassification,
    SlapForPreTraining,
    SlapModel,
)
from .modeling.pipeline_slap import AudioCaptioningPipeline, AudioEmbeddingPipeline
from .modeling.processing_slap import SlapProcessor

_MODELS = {  # of the Auto classes, that for speech is the nearest to audio captions
    SlapConfig: {
        AutoModel: SlapModel,
        AutoModelForPreTraining: SlapForPreTraining,
        AutoModelForSpeechSeq2Seq: SlapForAudioCaptioning,
        AutoModelForAudioClassification: SlapForAudioClassification,
    },
    SlapPrefixConfig: {AutoModel: SlapForPrefixCaptioning, AutoModelForSpeechSeq2Seq: SlapForPrefixCaptioning},
}
_AUDIO_TOWERS = (SlapAudioModel, SlapHtsatModel, SlapCnn14Model)
_TASKS = {
    "audio-captioning": (AudioCaptioningPipeline, AutoModelForSpeechSeq2Seq, "multimodal"),
    "audio-feature-extraction": (AudioEmbeddingPipeline, AutoModel, "audio"),
}


# By these files sentence-transformers (6 or later) knows both sides of the joint space. Arrays at another rate are
# resampled, as sentence-transformers has no argument by which a caller could ask for it.
_SENTENCE_TRANSFORMERS = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"}
            for side in ("text", "audio")
        },
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"audio": {"resample": True}},
    },
}


def register():
    """Registers the classes with the Auto classes and the tasks with `pipeline`. A second call changes nothing."""
    for config_class in (*_MODELS, SlapDecoderConfig, *(tower.config_class for tower in _AUDIO_TOWERS)):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for config_class, model_classes in _MODELS.items():
        config_class.register_for_auto_class()
        AutoFeatureExtractor.register(config_class, SlapFeatureExtractor, exist_ok=True)
        AutoProcessor.register(config_class, SlapProcessor, exist_ok=True)
        for auto_class, model_class in model_classes.items():
            auto_class.register(config_class, model_class, exist_ok=True)
            model_class.register_for_auto_class(auto_class.__name__)
    for tower in _AUDIO_TOWERS:
        AutoModel.register(tower.config_class, tower, exist_ok=True)
    for public_class in (SlapFeatureExtractor, SlapProcessor):
        public_class.register_for_auto_class()
    for task, (pipeline_class, auto_class, kind) in _TASKS.items():
        if PIPELINE_REGISTRY.supported_tasks.get(task, {}).get("impl") is not pipeline_class:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=auto_class, type=kind)
    SlapConfig.custom_pipelines = _hidden_custom_pipelines


def _show_none(config: SlapConfig) -> dict:
    return {}


def _keep(config: SlapConfig, tasks: dict):
    vars(config)["custom_pipelines"] = tasks


# config.json names the pipelines of its folder for readers without this package. `pipeline` must not see them where
# the tasks are registered, or it demands trust_remote_code=True; what is read is still written back.
_hidden_custom_pipelines = property(_show_none, _keep)


def save_folder(folder: str | os.PathLike, model: PreTrainedModel, processor: SlapProcessor):
    """Saves one folder that serves every SLAP class, every pipeline, `SentenceTransformer`, and readers without this
    package.

    `model.save_pretrained` names only the model's own class to such readers, and no pipelines. This names them all and
    lays the code beside the weights. To publish the folder, upload it as it is.

    Args:
        folder: made when missing.
        model: of any SLAP class; from a `SlapForPreTraining` every other class can be loaded.
        processor: the model's processor.
    """
    config_class = SlapPrefixConfig if model.config.model_type == SlapPrefixConfig.model_type else SlapConfig
    model.config.auto_map = {
        "AutoConfig": _code_name(config_class),
        **{auto_class.__name__: _code_name(model_class) for auto_class, model_class in _MODELS[config_class].items()},
    }
    model.config.custom_pipelines = {
        task: {"impl": _code_name(pipeline_class), "pt": [auto_class.__name__], "type": kind}
        for task, (pipeline_class, auto_class, kind) in _TASKS.items()
    }
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if hasattr(getattr(model, "slap", model), "text_model"):  # both sides of the joint space
        for name, content in _SENTENCE_TRANSFORMERS.items():
            Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _code_name(public_class: type) -> str:
    """Module and class, as config.json names the code beside it."""
    return f"{public_class.__module__.rsplit('.', 1)[-1]}.{public_class.__name__}"
