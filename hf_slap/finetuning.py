"""What the fine-tuning scripts share besides the loop of `fitting`: the model to start from, LoRA, the report.

Without LoRA a run leaves `run_folder/model`. With LoRA it leaves `run_folder/adapter`, small and loaded on top of the
model it started from, and, unless told otherwise, `run_folder/model`, where the adapter is merged into the weights.
Both hold the best validation, not the last.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from .data import end_texts
from .distributed import main_first, on_main
from .fitting import LoopConfig
from .modeling.configuration_slap import SlapConfig
from .modeling.processing_slap import SlapProcessor
from .starting_points import QUANTIZATIONS, freeze, load_start, tell_start
from .training_config import checked, refuse_unknown

# Every linear layer of the audio blocks and of the usual text towers, and the attention of the caption decoder.
LORA_TARGETS = (
    r"(.*\.)?(audio_model\.layers\.\d+\.(self_attn|mlp)\.(qkv_proj|o_proj|gate_up_proj|down_proj)"
    r"|audio_model\.htsat\..*\.(query|key|value|dense)"
    r"|text_model\..*\.(Wqkv|Wo|Wi|[qkvo]_proj|out_proj|gate_proj|up_proj|down_proj|query|key|value|dense"
    r"|[qkv]_lin|out_lin|lin[12]|fc[12]|c_attn|c_proj|c_fc)"
    r"|decoder\.layers\.\d+\.(self|cross)_attn\.[qkvo]_proj)"
)


# ------------------------------------------------------------------------------------------------ configuration
@dataclasses.dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021) on the linear layers whose names match.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: of the adapters' inputs.
        target_modules: regular expression for whole names of layers; frozen parts get no adapter.
        save_merged: also save the model with the adapters merged into its weights.
    """

    r: int = 8  # LoRA's paper, section 7
    alpha: float = 16.0  # twice the rank, as is common
    dropout: float = 0.0
    target_modules: str = LORA_TARGETS
    save_merged: bool = True


@dataclasses.dataclass
class FinetuneConfig(LoopConfig):
    """As `LoopConfig`, for a run that begins with a model; each script adds its own fields.

    Args:
        model: SLAP folder or Hub id to start from. With `audio_tower`, the audio encoder comes from there instead.
        lora: keywords of `LoraSettings`; null trains the weights themselves.
        quantization: "8bit" or "4bit": hold the frozen weights under LoRA so, by bitsandbytes.
    Raises:
        ValueError: as `LoopConfig`.
    """

    model: str = ""
    lora: dict | None = None
    quantization: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.lora is not None:
            fields = dataclasses.fields(LoraSettings)
            refuse_unknown(self.lora, [field.name for field in fields], "lora.")
            given = {**dataclasses.asdict(LoraSettings()), **self.lora}
            self.lora = {f.name: checked(f"lora.{f.name}", given[f.name], f.type) for f in fields}
            if self.lora["r"] < 1:
                raise ValueError(f"lora.r is {self.lora['r']}; a rank is at least 1")
            if self.audio_tower or getattr(self, "text_tower", None) or getattr(self, "language_model", None):
                raise ValueError(
                    "an adapter names one model to lie on: with lora, audio_tower, text_tower and language_model must "
                    "be null"
                )
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization is {self.quantization!r}; accepted are null and {list(QUANTIZATIONS)}")
        if self.quantization and self.lora is None:
            raise ValueError(
                f"quantization={self.quantization} holds weights that cannot be trained; set lora={{}} too"
            )

    @property
    def saves_merged(self) -> bool:
        return self.lora is not None and self.lora["save_merged"] and not self.quantization

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()):
        config = super().load(path, overrides)
        if not config.model:
            raise ValueError("model is not set: the SLAP folder or Hub id to start from")
        return config


# -------------------------------------------------------------------------------------------------------- model
def open_processor(source: str, text_tower: str | None = None) -> SlapProcessor:
    """The processor of a SLAP folder or Hub id, with the tokenizer of another text tower if there is one."""
    processor = main_first(lambda: SlapProcessor.from_pretrained(source))
    if text_tower is None:
        return processor
    tokenizer = main_first(lambda: AutoTokenizer.from_pretrained(text_tower))
    if SlapConfig.from_pretrained(source).text_pooling == "last":
        end_texts(tokenizer)
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return SlapProcessor(processor.feature_extractor, tokenizer)


def prepare_model(
    config: FinetuneConfig,
    model_class: type[PreTrainedModel],
    unused: Sequence[str],
    new_parts: Sequence[str] = (),
    text_tower: str | None = None,
    language_model: str | PreTrainedConfig | None = None,
    **config_changes: Any,
) -> tuple[PreTrainedModel, nn.Module]:
    """Loads the model that the run starts from, freezes what shall be, wraps it for LoRA if asked, and tells it all.

    Args:
        unused: patterns of parameters that the loss does not reach.
        new_parts: names of modules that LoRA trains in full, such as a new classification head.
        text_tower, language_model, config_changes: as in `load_start`.
    Returns:
        the model, and what to train: the same, or a `peft.PeftModel` around it.
    """
    start = (model_class, config.model, config.audio_tower, text_tower, config.quantization, language_model)
    model, report = main_first(lambda: load_start(*start, **config_changes))
    freeze(model, unused, missing_ok=True)
    freeze(model, config.frozen)
    if config.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    trained = model
    if config.lora is not None:
        trained = wrap_lora(model, LoraSettings(**config.lora), config.model, config.frozen, new_parts).train()
    on_main(lambda: tell_start(Path(config.run_folder), trained, report, config.frozen))
    return model, trained


def wrap_lora(
    model: PreTrainedModel,
    settings: LoraSettings,
    base: str,
    frozen: Sequence[str] = (),
    new_parts: Sequence[str] = (),
) -> nn.Module:
    """The model with low-rank adapters, everything else frozen.

    Args:
        base: folder or Hub id that the adapter is to be loaded on; a folder is written down with its full path.
        frozen, new_parts: as in `prepare_model`.
    Raises:
        ImportError: peft is missing.
        ValueError: `target_modules` matches no layer.
    """
    if importlib.util.find_spec("peft") is None:
        raise ImportError("lora needs the package peft: `pip install peft`, or set lora=null to train all weights")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        exclude_modules=rf".*({'|'.join(frozen)}).*" if frozen else None,
        modules_to_save=list(new_parts) or None,  # no task type: its wrappers pass arguments that our models lack
    )
    wrapped = get_peft_model(model, lora)
    wrapped.peft_config["default"].base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
    return wrapped
