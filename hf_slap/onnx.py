"""Both towers as programs of `torch.export`, and as ONNX files that are used without torch.

A program reads padded batches of any number and length, keeps the padding and reads no length on the host. What it
computes for a clip is what the model computes, whoever its batch mates are.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .files import UNFINISHED
from .modeling.configuration_slap import SlapAudioConfig
from .modeling.modeling_slap import SlapModel
from .modeling.processing_slap import NO_LIMIT, SlapProcessor

TOLERANCE = 1e-4  # of embeddings, whose length is 1: onnxruntime may differ by so much from the model
_SINGLE_FILE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB; weights beyond it lie in a second file
_AXES = {"audio": ("clips", "frames"), "text": ("texts", "tokens")}
_INPUTS = {"audio": ["input_features", "input_features_mask"], "text": ["input_ids", "attention_mask"]}
_OUTPUTS = {"audio": ["audio_embeds", "audio_projected", "last_hidden_state", "token_mask"], "text": ["text_embeds"]}
_WINDOW_FIELDS = ("patch_frames", "frames_per_second", "max_audio_seconds", "window_overlap_seconds", "long_audio")


class _AudioTower(nn.Module):
    def __init__(self, model: SlapModel):
        super().__init__()
        self.audio_model, self.audio_projection = model.audio_model, model.audio_projection

    def forward(self, input_features: Tensor, input_features_mask: Tensor) -> dict[str, Tensor]:
        heard = self.audio_model(input_features, input_features_mask)
        projected = self.audio_projection(heard.pooler_output)
        unit = nn.functional.normalize(projected, dim=-1)
        values = (unit, projected, heard.last_hidden_state, heard.attention_mask)
        return dict(zip(_OUTPUTS["audio"], values, strict=True))


class _TextTower(nn.Module):
    def __init__(self, model: SlapModel):
        super().__init__()
        self.config, self.text_model, self.text_pooler = model.config, model.text_model, model.text_pooler
        self.text_projection = model.text_projection

    get_text_features, _pool_text = SlapModel.get_text_features, SlapModel._pool_text

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"text_embeds": self.get_text_features(input_ids, attention_mask).pooler_output}


def export_towers(model: SlapModel) -> dict[str, ExportedProgram]:
    """The towers as programs with dynamic shapes, in the model's precision and on its device.

    Args:
        model: a `SlapModel`; dropout is left out.
    Returns:
        "audio": (input_features (B, F, M), input_features_mask (B, F) int64) to a dictionary of `audio_embeds` (B, P),
        unit norm; `audio_projected` (B, P), the same before it is brought to unit norm: the mean of those of the
        windows of a longer clip, weighted by what each window owns, has the direction of the clip's embedding;
        `last_hidden_state` (B, N, D) and `token_mask` (B, N) bool. F is at least two patches (shorter clips are padded
        to it) and at most the longest window; N is the patches that fit into F.
        "text": (input_ids (B, L), attention_mask (B, L) int64) to a dictionary of `text_embeds` (B, P), unit norm.
    Raises:
        ValueError: an audio tower that is not SLAP's: those hear windows of one length, cut on the host.
    """
    config, text = model.config.audio_config, model.config.text_config
    if config.model_type != SlapAudioConfig.model_type:
        raise ValueError(
            f"an audio tower of kind {config.model_type!r} is not written as a program; accepted is "
            f"{SlapAudioConfig.model_type!r}"
        )
    frames = Dim("frames", min=2 * config.patch_frames, max=_longest_frames(config))
    tokens = Dim("tokens", max=getattr(text, "max_position_embeddings", None))
    clips, texts = Dim("clips"), Dim("texts")
    was_training = model.training
    model.eval()
    try:
        return {
            "audio": _export(_AudioTower(model), _example_audio(model, 2), (clips, frames)),
            "text": _export(_TextTower(model), _example_text(model, 2), (texts, tokens)),
        }
    finally:
        model.train(was_training)


def export_onnx(folder: str | os.PathLike, out: str | os.PathLike) -> dict[str, float]:
    """Writes both towers of a model as ONNX files, and all that is needed beside them, and tries them.

    Written are `audio_model.onnx` and `text_model.onnx`, whose inputs and outputs are those of `export_towers`;
    `tokenizer.json`, which pads and truncates by itself; and `settings.json`: "front_end" (window, mel filters and
    numbers of the log-mel frames), "audio_config" (what `audio_windows` needs for longer clips), "logit_scale" and
    "logit_bias" (null: none). `examples/onnx_without_torch.py` uses them.

    Args:
        folder: of a SLAP model with both towers, or its Hub id. Weights are read and written as float32.
        out: a folder, made when missing.
    Returns:
        how far the embeddings that onnxruntime computes from noise are from the model's, by file.
    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: the folder holds no audio or no text tower.
        RuntimeError: onnxruntime differs by more than `TOLERANCE`; nothing is left in `out`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise ImportError('ONNX files are written with: `pip install "hf_slap[onnx]"`') from error

    model, loading = SlapModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if loading["missing_keys"]:
        raise ValueError(
            f"{str(folder)!r} lacks weights of the joint space, such as {min(loading['missing_keys'])}; pass a model "
            "that was pretrained with texts"
        )
    processor = SlapProcessor.from_pretrained(folder)
    out, differences = Path(out), {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out) as beside:
        for side, program in export_towers(model).items():
            path = Path(beside, f"{side}_model.onnx")
            _write(program, path, side)
            example = _EXAMPLES[side](model, 3)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            given = {name: value.numpy() for name, value in zip(_INPUTS[side], example, strict=True)}
            found = torch.from_numpy(session.run(_OUTPUTS[side][:1], given)[0])
            with torch.inference_mode():
                expected = getattr(model, f"get_{side}_features")(*example).pooler_output
            differences[path.name] = apart = float((found - expected).abs().max())
            if not apart <= TOLERANCE:
                raise RuntimeError(
                    f"onnxruntime {onnxruntime.__version__} computes embeddings of {side} that are {apart:.1e} from "
                    f"the model's, more than {TOLERANCE:.0e}; try other versions of onnxruntime and onnxscript"
                )
        _write_tokenizer(processor.tokenizer, Path(beside, "tokenizer.json"))
        Path(beside, "settings.json").write_text(json.dumps(_settings(model, processor)), encoding="utf-8")
        for path in Path(beside).iterdir():
            os.replace(path, out / path.name)
    return differences


def _longest_frames(config: SlapAudioConfig) -> int:
    """Most frames that the model hears in one piece; they may end in a part of a patch."""
    if config.long_audio == "whole":
        return 1_000_000
    columns = int(config.max_audio_seconds * config.frames_per_second / config.patch_frames)
    return (columns + 1) * config.patch_frames - 1


def _export(tower: nn.Module, example: tuple[Tensor, Tensor], axes: tuple[Any, Any]) -> ExportedProgram:
    shape = dict(enumerate(axes))
    with torch.no_grad():
        # deferred: that 16 x (frames // 16) <= frames is true, but more than the solver of guards can see
        return torch.export.export(
            tower.eval(),
            example,
            dynamic_shapes=(shape, shape),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _example_audio(model: SlapModel, clips: int) -> tuple[Tensor, Tensor]:
    """Noise of 7, 6, ... patches and a bit, in one window, with its mask."""
    config, generator = model.config.audio_config, torch.Generator().manual_seed(0)
    longest = min(7, _longest_frames(config) // config.patch_frames)
    lengths = (longest - torch.arange(clips)).clamp(min=1) * config.patch_frames + 3
    features = torch.randn(clips, int(lengths[0]), config.num_mel_bins, generator=generator)
    mask = torch.arange(features.shape[1]) < lengths[:, None]
    return features.to(model.device, model.dtype), mask.long().to(model.device)


def _example_text(model: SlapModel, texts: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(6, 6 + texts)
    ids = torch.randint(model.config.text_config.vocab_size, (texts, int(lengths[-1])), generator=generator)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids.to(model.device), mask.long().to(model.device)


_EXAMPLES = {"audio": _example_audio, "text": _example_text}


def _write(program: ExportedProgram, path: Path, side: str) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    shape = dict(enumerate(_AXES[side]))
    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=_INPUTS[side],
            output_names=_OUTPUTS[side],
            dynamic_shapes=(shape, shape),
            verbose=False,
        )
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of the code of this machine, with its paths
        written.save(path, external_data=size > _SINGLE_FILE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed here."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _write_tokenizer(tokenizer: Any, path: Path) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    if tokenizer.model_max_length < NO_LIMIT:
        own.enable_truncation(tokenizer.model_max_length)
    own.save(str(path))


def _settings(model: SlapModel, processor: SlapProcessor) -> dict[str, Any]:
    extractor, audio = processor.feature_extractor, model.config.audio_config
    names = ("sampling_rate", "hop_length", "log_floor", "mean", "std", "min_samples")
    return {
        "front_end": {
            **{name: getattr(extractor, name) for name in names},
            "window": extractor.window.tolist(),
            "mel_filters": extractor.mel_filters.tolist(),
        },
        "audio_config": {name: getattr(audio, name) for name in _WINDOW_FIELDS},
        "logit_scale": model.scale.item(),
        "logit_bias": None if model.bias is None else model.bias.item(),
    }
