"""Where a training starts: whose weights a model takes, which parts stay as they are, which learn more slowly.

What was loaded, left out or newly set is a table of `PartRow`s, printed and saved with the run.
"""

import copy
import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.import_utils import is_bitsandbytes_available

from .modeling.configuration_slap import SlapConfig
from .modeling.modeling_slap import audio_tower_class
from .modeling.weights_slap import open_weights
from .optimization import parameter_groups

QUANTIZATIONS = ("8bit", "4bit")
TOWERS = ("audio_model", "text_model")
START_FILE = "start.json"
# Not quantised: small, and read by hand or trained as a whole.
_KEPT_PRECISE = ("patch_embedding", "audio_projection", "text_projection", "text_pooler", "pooler", "lm_head", "classifier")  # fmt: skip # noqa: E501


class PartRow(NamedTuple):
    """One part of a model in the report of its start.

    Args:
        part: such as "audio_model" or "decoder".
        state: "loaded", "new" (drawn or set anew), or "left out" (in the checkpoint, not in the model).
        source: the folder or Hub id, empty for a new part.
        weights: how many numbers.
    """

    part: str
    state: str
    source: str
    weights: int


# ----------------------------------------------------------------------------------------------------- loading
def load_start(
    model_class: type[PreTrainedModel],
    source: str,
    audio_tower: str | None = None,
    text_tower: str | None = None,
    quantization: str | None = None,
    language_model: str | PreTrainedConfig | None = None,
    **config_changes: Any,
) -> tuple[PreTrainedModel, list[PartRow]]:
    """A model from a SLAP folder or Hub id, a tower of it from elsewhere if asked.

    Args:
        model_class: any SLAP class; parts of the checkpoint that it has no use for are left out.
        source: SLAP folder or Hub id. Weights that are missing or of another shape are new.
        audio_tower: SLAP model or audio encoder whose audio encoder is taken in place of the source's.
        text_tower: any text model of transformers in place of the source's; its pooling and projection are new.
        quantization: "8bit" or "4bit": the weights of the linear layers, by bitsandbytes.
        language_model: for `SlapForPrefixCaptioning`, folder or Hub id of what writes behind the audio side of the
            source, or a configuration that starts it anew; the mapper is new.
        config_changes: fields of the configuration that differ from the source's, such as `id2label`.
    Returns:
        the model, in training mode, and the rows of its report.
    Raises:
        ValueError: the source is an adapter or no SLAP model; an audio tower of another width; a text tower for a
            model without one; an unknown quantization.
        ImportError: quantization without bitsandbytes.
    """
    if (Path(source) / "adapter_config.json").is_file() and not (Path(source) / "config.json").is_file():
        raise ValueError(
            f"{source} is an adapter, not a model; start from the merged folder that its run saved beside it"
        )
    keywords = {"quantization_config": quantizer(quantization)} if quantization else {}
    origins = {"": (source, checkpoint_shapes(source))}
    rows: list[PartRow] = []
    if language_model is not None:
        model = model_class.from_audio_language_pretrained(source, language_model, **config_changes)
        if isinstance(language_model, str):
            size = sum(p.numel() for p in model.language_model.parameters())
            rows = [PartRow("language_model", "loaded", language_model, size)]
    else:
        config = model_class.config_class.from_pretrained(source, **config_changes)
        model = model_class.from_pretrained(source, config=config, ignore_mismatched_sizes=True, **keywords)
    if text_tower is not None:
        model, rows = _with_text_tower(model, text_tower)
        origins |= {"text_pooler.": ("", {}), "text_projection.": ("", {})}
    if audio_tower is not None:
        _take_audio_tower(model, audio_tower)
        shapes = checkpoint_shapes(audio_tower)
        inside = {n.removeprefix("audio_model."): s for n, s in shapes.items() if n.startswith("audio_model.")}
        origins["audio_model."] = (audio_tower, inside or shapes)  # of a whole model, or of an encoder alone
    return model.train(), weight_report(model, origins, rows)


def quantizer(kind: str) -> BitsAndBytesConfig:
    """What `from_pretrained` needs to hold the linear layers in 8 or 4 bits."""
    if kind not in QUANTIZATIONS:
        raise ValueError(f"quantization is {kind!r}; accepted are null and {list(QUANTIZATIONS)}")
    if not is_bitsandbytes_available():
        raise ImportError(
            f"quantization={kind} needs the package bitsandbytes and a device that it serves: "
            'pip install "hf_slap[quantize]", or set quantization=null'
        )
    precise = list(_KEPT_PRECISE)
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=precise)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=precise,
    )  # fmt: skip


def _with_text_tower(model: PreTrainedModel, text_tower: str) -> tuple[PreTrainedModel, list[PartRow]]:
    if not hasattr(model, "text_model"):
        raise ValueError(f"{type(model).__name__} has no text tower of its own; text_tower must be null")
    config = SlapConfig(**{**model.config.to_dict(), "text_config": AutoConfig.from_pretrained(text_tower)})
    config.decoder_config = None  # the captioner spoke the other tower's vocabulary
    fresh = type(model)(config)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("text_")}
    fresh.load_state_dict(kept, strict=False)
    fresh.text_model, told = AutoModel.from_pretrained(text_tower, output_loading_info=True)
    sizes = {name: value.numel() for name, value in fresh.text_model.state_dict().items()}
    missing = sum(sizes.get(name, 0) for name in told["missing_keys"])
    rows = [PartRow("text_model", "loaded", text_tower, sum(sizes.values()) - missing)]
    return fresh, rows + ([PartRow("text_model", "new", "", missing)] if missing else [])


def _take_audio_tower(model: PreTrainedModel, audio_tower: str) -> None:
    base = getattr(model, "slap", model)
    config = AutoConfig.from_pretrained(audio_tower)
    tower = audio_tower_class(getattr(config, "audio_config", config)).from_pretrained(audio_tower)
    ours, theirs = model.config.audio_config.hidden_size, tower.config.hidden_size
    if ours != theirs:
        raise ValueError(
            f"the audio tower of {audio_tower} is {theirs} wide, the rest of the model expects {ours}; "
            "pretrain with that tower instead"
        )
    front_ends = [getattr(config, "front_end", None) for config in (model.config.audio_config, tower.config)]
    if front_ends[0] != front_ends[1]:
        raise ValueError(
            f"the audio tower of {audio_tower} hears another front end ({front_ends[1] or 'the default'}) than the "
            f"rest of the model ({front_ends[0] or 'the default'}); pretrain with that tower instead"
        )
    model.config.audio_config = tower.config
    base.audio_model = tower


# ------------------------------------------------------------------------------------------- start of a pretraining
def model_keywords(given: dict, start_from: str | None = None, audio_from: str | None = None) -> dict:
    """Keywords of `SlapConfig`: those of the folders that weights come from, and over them the given ones.

    Args:
        given: keywords of `SlapConfig`; it is not changed.
        start_from, audio_from: as in `take_start`; only their configurations are read.
    """
    base = {}
    if start_from is not None:
        fields = {field.name for field in dataclasses.fields(SlapConfig)}
        saved = SlapConfig.from_pretrained(start_from).to_dict()
        base = {name: value for name, value in saved.items() if name in fields and not name.startswith("_")}
    if audio_from is not None:
        config = AutoConfig.from_pretrained(audio_from)
        base["audio_config"] = getattr(config, "audio_config", config).to_dict()
    keywords = {**base, **copy.deepcopy(given)}
    for name in base.keys() & given.keys():
        if isinstance(base[name], dict) and isinstance(given[name], dict):
            keywords[name] = {**base[name], **given[name]}
    return keywords


def take_start(
    model: PreTrainedModel, start_from: str | None = None, audio_from: str | None = None, text_from: str | None = None
) -> list[PartRow]:
    """Copies weights into a new model, by name.

    Args:
        model: with a `SlapModel` in it or one itself, or another class around an audio encoder, not wrapped.
        start_from: SLAP folder or Hub id: every tensor that the model has too.
        audio_from: SLAP model, supervised classifier or audio encoder: its audio encoder, all of it.
        text_from: what the text tower was loaded from by `from_audio_text_pretrained`; it is only reported.
    Returns:
        the rows of the report.
    Raises:
        ValueError: a tensor of another shape, or an audio encoder that has not the same tensors.
        FileNotFoundError: no safetensors there.
    """
    origins, known = {"": ("", {})}, []
    if start_from is not None:
        origins[""] = (start_from, take_weights(model, start_from))
    if audio_from is not None:
        origins["audio_model."] = (audio_from, take_weights(model, audio_from, "audio_model."))
    if text_from is not None:
        tower = next(module for name, module in model.named_modules() if name.split(".")[-1] == "text_model")
        known = [PartRow("text_model", "loaded", text_from, sum(p.numel() for p in tower.parameters()))]
    return weight_report(model, origins, known)


@torch.no_grad()
def take_weights(model: nn.Module, source: str, part: str = "") -> dict[str, tuple[int, ...]]:
    """Copies the tensors of a folder or Hub id into a model: all that the model has too, or the whole of one part.

    Args:
        model: not wrapped. Names count without a leading "slap.".
        source: folder or Hub id.
        part: such as "audio_model."; the source may also be that part alone.
    Returns:
        {name in the source: shape}, without the part.
    Raises:
        ValueError: see `take_start`.
    """
    shapes = checkpoint_shapes(source)
    if part and any(name.startswith(part) for name in shapes):
        shapes = {name.removeprefix(part): shape for name, shape in shapes.items() if name.startswith(part)}
        prefix = part
    else:
        prefix = ""
    ours = {name.removeprefix("slap."): tensor for name, tensor in model.state_dict().items()}
    ours = {name.removeprefix(part): tensor for name, tensor in ours.items() if name.startswith(part)}
    problems = [
        f"{part}{name} is {shapes[name]} there and {tuple(tensor.shape)} in this model"
        for name, tensor in ours.items()
        if name in shapes and shapes[name] != tuple(tensor.shape)
    ]
    if part:
        problems += [f"{part}{name} is missing there" for name in ours if name not in shapes]
        problems += [f"{part}{name} is unknown to this model" for name in shapes if name not in ours]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{source} does not fit the model: {'; '.join(problems[:5])}{more}. Leave sizes out of `model`: they are "
            "taken from there; and use the tokenizer of that folder"
        )
    for file, name, key in _saved_tensors(source):
        if name.startswith(prefix) and name.removeprefix(prefix) in ours:
            ours[name.removeprefix(prefix)].copy_(file.get_tensor(key))
    return shapes


def tell_start(run_folder: Path, model: PreTrainedModel, report: Sequence[PartRow], frozen: Sequence[str]) -> None:
    """Prints the report and writes it, with the model's configuration, as `start.json` of the run."""
    print("\n".join(report_lines(report, model)))
    trained, total = trainable_share(model)
    told = {"parts": [row._asdict() for row in report], "frozen": list(frozen), "trained": trained, "total": total}
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / START_FILE).write_text(json.dumps({**told, "config": model.config.to_dict()}, indent=1) + "\n")


def resumed_model(model_class: type[PreTrainedModel], run_folder: Path) -> PreTrainedModel:
    """A model of the configuration that `tell_start` wrote, for a checkpoint to fill: the start is not read again."""
    config = json.loads((run_folder / START_FILE).read_text())["config"]
    return model_class(SlapConfig.from_dict(config)).train()


# ------------------------------------------------------------------------------------------------------ report
def checkpoint_shapes(source: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a folder or Hub id, from the headers of its safetensors files; a leading "slap." is dropped.

    Raises:
        FileNotFoundError: no safetensors there.
    """
    return {name: tuple(file.get_slice(key).get_shape()) for file, name, key in _saved_tensors(source)}


def _saved_tensors(source: str) -> Iterator[tuple[Any, str, str]]:
    """(open file, name without a leading "slap.", name in the file) of every tensor of a folder or Hub id."""
    index = cached_file(source, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    names = ["model.safetensors"] if index is None else set(json.loads(Path(index).read_text())["weight_map"].values())
    for name in sorted(names):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if path is None:
            raise FileNotFoundError(f"{source} holds no {name}; a SLAP folder keeps its weights as safetensors")
        with open_weights(path) as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                yield file, key.removeprefix("slap."), key


def weight_report(
    model: nn.Module,
    origins: Mapping[str, tuple[str, Mapping[str, tuple[int, ...]]]],
    known: Sequence[PartRow] = (),
) -> list[PartRow]:
    """Compares what a model has with what the checkpoints hold, by name and shape.

    Args:
        model: after loading, not wrapped.
        origins: {prefix of names: (source, shapes)}; the longest prefix that fits a name decides. Names count
            without a leading "slap.", shapes of a prefix without it.
        known: rows of parts that were reported elsewhere.
    Returns:
        rows of parts in the order of the model, then what was left out.
    """
    done = {row.part for row in known}
    rows, used = Counter(), {prefix: set() for prefix in origins}
    for name, parameter in model.named_parameters():
        name = name.removeprefix("slap.")
        part = name.split(".")[0]
        if part in done:
            continue
        prefix = max((p for p in origins if name.startswith(p)), key=len)
        source, shapes = origins[prefix]
        key = name.removeprefix(prefix)
        # a quantised weight has another shape than the one it was made from
        fits = key in shapes and (shapes[key] == tuple(parameter.shape) or not parameter.is_floating_point())
        if fits:
            used[prefix].add(key)
        size = torch.Size(shapes[key]).numel() if fits else parameter.numel()
        rows[part, "loaded" if fits else "new", source if fits else ""] += size
    for name, _ in model.named_buffers():  # such as the means of batch norm: taken, and no weights
        name = name.removeprefix("slap.")
        prefix = max((p for p in origins if name.startswith(p)), key=len)
        used[prefix].add(name.removeprefix(prefix))
    for prefix, (source, shapes) in origins.items():
        for key, shape in shapes.items():
            if key not in used[prefix]:
                rows[(prefix + key).split(".")[0], "left out", source] += torch.Size(shape).numel()
    ours = [PartRow(*where, weights) for where, weights in rows.items()]
    in_model = [row for row in [*ours, *known] if row.state != "left out"]
    return in_model + [row for row in ours if row.state == "left out"]


def report_lines(rows: Sequence[PartRow], model: nn.Module | None = None) -> list[str]:
    """The report as lines of text, with the share that is trained when the model is given too."""
    width = max((len(row.part) for row in rows), default=0)
    lines = [f"  {row.part:<{width}}  {row.weights:>13,}  {row.state:<8}  {row.source}".rstrip() for row in rows]
    if model is not None:
        trained, total = trainable_share(model)
        lines.append(f"  trained: {trained:,} of {total:,} weights, {trained / total:.2%}")
    return ["starting point:", *lines]


def trainable_share(model: nn.Module) -> tuple[int, int]:
    """How many weights are trained, and how many there are. A weight packed into 4 bits counts as a half byte."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters())


# ---------------------------------------------------------------------------------------------------- freezing
def freeze(model: nn.Module, patterns: Sequence[str], missing_ok: bool = False) -> list[str]:
    """Freezes every parameter in whose name a pattern is found.

    Args:
        model: whose parameters get `requires_grad` False.
        patterns: regular expressions, such as "text_model" or r"audio_model\\.layers\\.[0-5]\\.".
        missing_ok: a pattern may be found in no name.
    Returns:
        the names that were frozen.
    Raises:
        ValueError: a pattern that is found in no name.
    """
    frozen = []
    for pattern in patterns:
        found = [(name, p) for name, p in model.named_parameters() if re.search(pattern, name)]
        if not found and not missing_ok:
            parts = sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})
            raise ValueError(f"frozen: no parameter is named like {pattern!r}; names begin with {parts}")
        for name, parameter in found:
            parameter.requires_grad_(False)
            frozen.append(name)
    model.train(model.training)  # some parts, once frozen, stay in evaluation mode
    return frozen


# ------------------------------------------------------------------------------------- layer-wise learning rates
def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied with: lower layers of a tower learn more slowly.

    A tower of n blocks: `decay` to the power of n + 1 for what comes before the blocks, n for the first block, ...,
    1 for the last one; 1.0 for what comes after the blocks and for everything outside of the towers.

    Args:
        model: with an "audio_model", a "text_model", or both, at any depth, wrapped by peft or not.
        decay: 0 < decay <= 1.
    Returns:
        {name of a parameter: factor}.
    Raises:
        ValueError: decay outside its range.
    Source: BEiT (Bao et al. 2021) and MAE's fine-tuning; usual values are 0.65 to 0.9.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay is {decay}; it must lie above 0 and not above 1, where it does nothing")
    scales = {name: 1.0 for name, _ in model.named_parameters()}
    towers = [(name, tower) for name, tower in model.named_modules() if name.split(".")[-1] in TOWERS]
    for prefix, tower in towers:
        stacks = [(name, stack) for name, stack in tower.named_modules() if isinstance(stack, nn.ModuleList)]
        if not stacks:
            continue
        name_of_blocks, blocks = max(stacks, key=lambda stack: len(stack[1]))
        exponent = len(blocks) + 1
        for name, _ in tower.named_parameters():
            if name.startswith(f"{name_of_blocks}."):
                exponent = len(blocks) - int(name[len(name_of_blocks) + 1 :].split(".")[0])
            elif exponent <= len(blocks):
                exponent = 0  # modules are registered in the order in which they are passed
            scales[f"{prefix}.{name}"] = decay**exponent
    return scales


def layerwise_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """`optimization.parameter_groups`, divided by the factor of the learning rate under the key "lr_scale".

    Raises:
        ValueError: nothing is trained, or see `layer_scales`.
    """
    scales = layer_scales(model, layer_decay)
    scale_of = {id(parameter): scales[name] for name, parameter in model.named_parameters()}
    groups = []
    for group in parameter_groups(model, weight_decay):
        by_scale = defaultdict(list)
        for parameter in group["params"]:
            by_scale[scale_of[id(parameter)]].append(parameter)
        for scale, params in sorted(by_scale.items()):
            groups.append({**group, "name": f"{group['name']} x {scale:.3g}", "params": params, "lr_scale": scale})
    return groups
