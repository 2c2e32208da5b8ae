"""Models behind one face: what a suite asks of SLAP, of transformers' CLAP and of sentence-transformers models.

A listener embeds clips and texts, and where the model can, gives dense features and captions. All is cached by the
content of what is heard or read and by the hash of what computes it.
"""

import functools
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..embedding import embed
from ..listening import check_place, open_captioner
from ..modeling.audio_slap import AudioError, load_waveform
from ..modeling.configuration_slap import SlapAudioConfig, SlapConfig, SlapWindowedAudioConfig
from ..modeling.feature_extraction_slap import SlapFeatureExtractor
from ..modeling.modeling_slap import (
    SlapAudioModelWithProjection,
    SlapAudioTower,
    SlapForAudioCaptioning,
    SlapModel,
    SlapPreTrainedModel,
)
from ..modeling.pipeline_slap import AudioCaptioningPipeline
from ..moments import embed_moments, seconds_per_moment
from .cache import ArrayCache
from .sets import Clips, NotMeasured

_TEXTS_AT_ONCE = 64
_CLIPS_AT_ONCE = 8
_PARTS = ("audio", "frames", "local")
_READS = ("zero_shot", "retrieval", "localisation", "mteb")  # kinds of tasks that have texts embedded
_OF_TOKENIZERS = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")
_NOT_SETTINGS = ("_name_or_path", "_from_model_config", "transformers_version")


class Heard(NamedTuple):
    """What a listener says of clips.

    Args:
        values: one array per clip that was heard.
        rows: the numbers of these clips.
        failed: (id, reason) of the others.
    """

    values: Sequence[np.ndarray]
    rows: np.ndarray
    failed: list[tuple[str, str]]


class Listener:
    """A model with `get_audio_features` and `get_text_features`, and its processor.

    Args:
        model, processor: as transformers has them.
        name: for people; default: the folder's name or the Hub id.
        revision: default: the commit that transformers resolved, else none.
        cache: folder.
        progress: show bars.
    """

    dense = False  # whether `frames` and `local_embeds` are served
    reads = True  # whether texts are embedded

    def __init__(self, model: Any, processor: Any, name: str, revision: str | None, cache: Path, progress: bool):
        self.model, self.processor, self.progress = model, processor, progress
        self.extractor = getattr(processor, "feature_extractor", processor)
        self.name = name
        self.revision = revision or getattr(getattr(model, "config", None), "_commit_hash", None)
        self.weights = self._hash()
        self.folder = cache / self.weights
        self.tokenizer = _tokenizer_hash(processor or model)
        self.arrays = {part: ArrayCache(self.folder / part) for part in _PARTS}
        self.arrays["text"] = ArrayCache(self.folder / f"text-{self.tokenizer}")

    @property
    def long_clips(self) -> str:
        """The rule for clips that are longer than the model takes."""
        longest, how = getattr(self.extractor, "max_length_s", None), getattr(self.extractor, "truncation", None)
        rule = f"the processor's own: {how}, {longest} s" if longest else "the processor's own"
        return f"{rule}; random crops are drawn with a seed from the clip's content"

    @property
    def rate(self) -> int:
        """Hz, of the waveforms that the model takes."""
        return int(self.extractor.sampling_rate)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def describe(self) -> dict[str, str | None]:
        """Which model this is: name, revision, hash of weights and settings, class."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights": f"sha256:{self.weights}",
            "class": type(self.model).__name__,
        }

    def made_of(self, kind: str) -> dict[str, str]:
        """What decides the scores of a kind of task beside the weights of `describe`: hashes by part.

        Raises:
            NotMeasured: the model lacks the part.
        """
        if kind not in _READS:
            return {}
        self._require_text()
        return {"tokenizer": f"sha256:{self.tokenizer}"}

    # ------------------------------------------------------------------------------------------ what is asked

    def hear(
        self, item: Any, name: str | None = None, seconds: float | None = None, resample: bool = False
    ) -> np.ndarray:
        """(n,) at `rate`, of a clip as `load_waveform` reads it; `seconds`: its beginning alone."""
        wave = load_waveform(item, self.rate, None, resample, name, self._shortest, self._end_to_end)
        return wave if seconds is None else wave[: max(round(seconds * self.rate), self._shortest)]

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(M, P), unit norm."""
        self._require_text()
        kept = self.arrays["text"]
        missing = [text for text in dict.fromkeys(texts) if _key(text) not in kept]
        for start in range(0, len(missing), _TEXTS_AT_ONCE):
            group = missing[start : start + _TEXTS_AT_ONCE]
            for text, values in zip(group, unit(self._texts(group)), strict=True):
                kept.put(_key(text), values)
        return np.stack([kept[_key(text)] for text in texts])

    def embed_clips(self, clips: Clips, seconds: float | None = None) -> Heard:
        """Joint embeddings (P,), unit norm. `seconds`: cut clips to their beginning."""
        return self._each(clips, "audio", "embedding", seconds, lambda waves: list(unit(self.embed_waves(waves))))

    def frames(self, clips: Clips, seconds: float | None = None) -> Heard:
        """Dense features over time, (T, D) each, float16: what probes read."""
        raise NotMeasured(f"{type(self.model).__name__} gives no dense features; probes on its embeddings are served")

    def local_embeds(self, clips: Clips, seconds: float | None = None) -> Heard:
        """Joint embeddings of points in time, (T, P) each, unit norm."""
        raise NotMeasured(f"{type(self.model).__name__} gives no dense features, so it cannot say when")

    def captions(self, clips: Clips, seconds: float | None = None) -> tuple[list[str], Heard]:
        """A caption of each clip that was heard, and which these are."""
        raise NotMeasured(f"{type(self.model).__name__} writes no captions")

    def seconds_per_frame(self) -> float:
        """Seconds from one of `frames` to the next."""
        raise NotMeasured(f"{type(self.model).__name__} gives no dense features")

    # ------------------------------------------------------------------------------------------ how it is answered

    def _require_text(self) -> None:
        if not self.reads:
            raise NotMeasured(
                f"{self.name!r} ({type(self.model).__name__}) has no text side: neither weights of a text tower nor of "
                "its projection; labels, queries and places in time need a SlapModel"
            )

    def _texts(self, texts: list[str]) -> np.ndarray:
        inputs = self.processor(text=texts, return_tensors="pt", padding=True)
        return _pooled(self._call(self.model.get_text_features, inputs))

    def embed_waves(self, waves: list[np.ndarray]) -> np.ndarray:
        """(N, P) of waveforms at `rate`, not kept and not of unit norm."""
        return np.concatenate([self._wave(wave) for wave in waves])

    def _wave(self, wave: np.ndarray) -> np.ndarray:
        """One clip at a time: CLAP's extractor lets batch mates decide how a clip is heard."""
        extractor = self.extractor
        before = np.random.get_state()
        np.random.seed(int.from_bytes(hashlib.sha256(wave.tobytes()).digest()[:4], "little"))
        try:
            inputs = extractor([wave], sampling_rate=self.rate, return_tensors="pt")
        finally:
            np.random.set_state(before)
        if "is_longer" in inputs and hasattr(extractor, "nb_max_samples"):  # it marks a short clip at random
            inputs["is_longer"] = torch.tensor([[len(wave) > extractor.nb_max_samples]])
        return _pooled(self._call(self.model.get_audio_features, inputs))

    def _call(self, function: Callable, inputs: Any) -> Any:
        with torch.inference_mode():
            return function(**{name: value.to(self.device) for name, value in inputs.items()})

    def _each(
        self, clips: Clips, part: str, what: str, seconds: float | None, compute: Callable[[list], list[np.ndarray]]
    ) -> Heard:
        """Arrays of clips from the cache; those that are missing are computed, a few clips at a time."""
        kept, failed = self.arrays[part], {}
        first = {key: row for row, key in reversed(list(enumerate(clips.data["key"])))}
        missing = [row for key, row in sorted(first.items(), key=lambda item: item[1]) if key not in kept]
        bar = tqdm(total=len(missing), desc=what, unit="clip", disable=not self.progress or not missing)
        group: list[tuple[str, np.ndarray]] = []
        for row, item in self._waves(clips, missing, seconds):
            if isinstance(item, str):
                failed[clips.data[row]["key"]] = item
            else:
                group.append((clips.data[row]["key"], item))
            if len(group) == self._at_once or row == missing[-1]:
                for (key, _), values in zip(group, compute([wave for _, wave in group]) if group else [], strict=True):
                    kept.put(key, values)
                bar.update(len(group))
                group = []
        bar.close()
        return _heard(clips, kept, failed)

    _at_once = _CLIPS_AT_ONCE

    def _waves(
        self, clips: Clips, rows: Sequence[int], seconds: float | None
    ) -> Iterator[tuple[int, np.ndarray | str]]:
        for row in rows:
            item = clips.data[row]
            try:
                yield row, self.hear(item["audio"], item["id"], seconds)
            except (AudioError, OSError, RuntimeError) as error:
                yield row, str(error) or type(error).__name__

    _shortest = 1
    _end_to_end = False

    def _hash(self) -> str:
        return _model_hash(self.model, self.extractor)


class SlapListener(Listener):
    """A SLAP model: embeds with `hf_slap.embed`, and serves dense features where its audio encoder is SLAP's own.

    Of a model that lacks a text side or the joint space, as captioners and classifiers do, the rest is served.
    """

    def __init__(self, model: Any, *arguments: Any):
        self.whole = model
        super().__init__(getattr(model, "slap", model), *arguments)
        self.reads = hasattr(self.model, "get_text_features")
        self._config = self.model.audio_model.config
        self.dense = hasattr(self.model.audio_model, "pooler")  # moments are pooled as clips are
        self._shortest, self._end_to_end = self.extractor.min_samples, self.extractor.compat

    @property
    def long_clips(self) -> str:
        config, extractor = self._config, self.extractor
        if extractor.compat:
            return f"a part of {extractor.window_seconds:g} s alone, drawn with a seed from the clip's content"
        if extractor.long_audio == "center":
            return f"the middle {extractor.window_seconds:g} s alone"
        if config.long_audio == "whole":
            return "in one piece, however long"
        return (
            f"over {config.max_audio_seconds:g} s in windows that overlap by {config.window_overlap_seconds:g} s, "
            "averaged by the time that each owns"
        )

    def describe(self) -> dict[str, str | None]:
        return {**super().describe(), "class": type(self.whole).__name__}

    def made_of(self, kind: str) -> dict[str, str]:
        if kind == "captioning":
            return {"captioner": f"sha256:{self._captioner[1]}"}
        return super().made_of(kind)

    def hear(
        self, item: Any, name: str | None = None, seconds: float | None = None, resample: bool = False
    ) -> np.ndarray:
        """As `Listener.hear`. Where the extractor would draw a part with `compat`, that part, seeded by the content."""
        wave = super().hear(item, name, seconds, resample)
        spare = len(wave) - self.extractor.window_samples
        if not self.extractor.compat or spare <= 0:
            return wave
        start = random.Random(wave.tobytes()).randrange(spare)
        return wave[start : len(wave) - spare + start]

    def embed_clips(self, clips: Clips, seconds: float | None = None) -> Heard:
        self._require_joint_space()
        keys, failed = list(clips.data["key"]), {}
        first = {key: row for row, key in reversed(list(enumerate(keys)))}

        def sounds() -> Iterator[dict]:
            for row, wave in self._waves(clips, sorted(first.values()), seconds):
                key = keys[row]
                if isinstance(wave, str):
                    failed[key] = wave
                else:
                    yield {"id": key, "audio": {"array": wave, "sampling_rate": self.rate}}

        source: Any = sounds()
        if seconds is None and not self.extractor.compat:  # read by threads of `embed`
            source = clips.data.select(sorted(first.values())).select_columns(["key", "audio"])
            source = source.rename_column("key", "id")
        result = embed(source, self.model, self.processor, output=self.folder / "embeddings", progress=self.progress)
        found = dict(zip(result.dataset["id"], np.asarray(result.dataset["embedding"], np.float32), strict=True))
        return _heard(clips, found, {**failed, **dict(result.failed)})

    def embed_waves(self, waves: list[np.ndarray]) -> np.ndarray:
        self._require_joint_space()
        inputs = self.extractor(waves, sampling_rate=self.rate, return_tensors="pt")
        return _pooled(self._call(self.model.get_audio_features, inputs))

    def frames(self, clips: Clips, seconds: float | None = None) -> Heard:
        if not self.dense:
            return super().frames(clips, seconds)

        def compute(waves: list[np.ndarray]) -> list[np.ndarray]:
            return [columns.mean(1).half().numpy() for columns in self._columns(waves)]

        return self._each(clips, "frames", "dense features", seconds, compute)

    def local_embeds(self, clips: Clips, seconds: float | None = None) -> Heard:
        """Moments, see `embed_moments`."""
        if not self.dense:
            return super().local_embeds(clips, seconds)
        self._require_joint_space()

        def compute(waves: list[np.ndarray]) -> list[np.ndarray]:
            device, results = self.device, []
            for columns in self._columns(waves):
                with torch.inference_mode():
                    values = embed_moments(columns.flatten(0, 1).to(device, self.model.dtype), self.model)
                results.append(values.float().cpu().numpy())
            return results

        return self._each(clips, "local", "points in time", seconds, compute)

    def seconds_per_frame(self) -> float:
        return seconds_per_moment(self.model)

    def captions(self, clips: Clips, seconds: float | None = None) -> tuple[list[str], Heard]:
        captioner, digest = self._captioner
        self.arrays.setdefault(f"captions-{digest}", ArrayCache(self.folder / f"captions-{digest}"))

        def compute(waves: list[np.ndarray]) -> list[np.ndarray]:
            written = captioner(waves, sampling_rate=self.rate, batch_size=len(waves))
            return [np.frombuffer(one[0]["generated_text"].encode(), np.uint8) for one in written]

        heard = self._each(clips, f"captions-{digest}", "captions", seconds, compute)
        return [bytes(value).decode() for value in heard.values], heard

    @functools.cached_property
    def _captioner(self) -> tuple[AudioCaptioningPipeline, str]:
        """The pipeline that writes, and the hash of all that decides what it writes."""
        if not hasattr(self.processor, "tokenizer"):
            raise NotMeasured(
                f"{self.name!r} came without a tokenizer, so it writes no captions; pass its SlapProcessor"
            )
        if hasattr(self.whole, "generate"):
            pipeline = self._pipeline(self.whole)
        elif getattr(self.whole, "decoder", None) is not None:
            pipeline = self._pipeline(_with_parts_of(SlapForAudioCaptioning, self.whole))
        else:
            pipeline = self._read_captioner(self.whole.name_or_path)
        generation = pipeline.model.generation_config.to_diff_dict()
        parts = [_model_hash(pipeline.model, self.extractor), _settings(generation), self.tokenizer]
        return pipeline, hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _pipeline(self, captioner: Any) -> AudioCaptioningPipeline:
        parts = {"tokenizer": self.processor.tokenizer, "feature_extractor": self.extractor}
        return AudioCaptioningPipeline(model=captioner, device=self.device, **parts)

    def _read_captioner(self, place: str) -> AudioCaptioningPipeline:
        """The captioner beside the weights of this model, if they are the same."""
        try:
            pipeline = open_captioner(place, self.processor, self.device, self.revision)
        except (ValueError, OSError) as error:
            raise NotMeasured(str(error)) from error
        ours, theirs = (model.audio_model.state_dict() for model in (self.model, pipeline.model.slap))
        if ours.keys() != theirs.keys() or not all(torch.equal(theirs[k].to(v), v) for k, v in ours.items()):
            raise NotMeasured(
                f"the model that was passed has other weights than {place!r}, where its caption decoder would be read; "
                "save it with its decoder and pass the folder, or pass a SlapForPreTraining"
            )
        return pipeline

    def _require_joint_space(self) -> None:
        if not hasattr(self.model, "audio_projection"):
            raise NotMeasured(
                f"{self.name!r} ({type(self.model).__name__}) has no projection into a space shared with texts, so "
                "clips have no embeddings; save the folder from a SlapModel"
            )

    def _hash(self) -> str:
        return _model_hash(self.whole if hasattr(self.whole, "generate") else self.model, self.extractor)

    def _columns(self, waves: list[np.ndarray]) -> list[torch.Tensor]:
        """Dense features of clips by patch column, (T, rows, D) each, float32."""
        inputs = self.extractor(waves, sampling_rate=self.rate, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.audio_model(
                inputs["input_features"].to(self.device, self.model.dtype),
                inputs["input_features_mask"].to(self.device),
            )
        return [
            hidden[mask].unflatten(0, (-1, self._config.patch_rows)).float().cpu()
            for hidden, mask in zip(output.last_hidden_state, output.attention_mask, strict=True)
        ]


class SentenceTransformerListener(Listener):
    """A sentence-transformers model that encodes text and audio."""

    @property
    def rate(self) -> int:
        found = re.search(r"'sampling_rate': (\d+)", str([getattr(m, "processor", None) for m in self.model]))
        extractor = next(
            (e for m in self.model if (e := getattr(getattr(m, "processor", None), "feature_extractor", None))), None
        )
        return int(getattr(extractor, "sampling_rate", None) or (found[1] if found else 16_000))

    @property
    def long_clips(self) -> str:
        return "the sentence-transformers model's own"

    def _texts(self, texts: list[str]) -> np.ndarray:
        return self.model.encode(texts, convert_to_numpy=True, show_progress_bar=False)

    def embed_waves(self, waves: list[np.ndarray]) -> np.ndarray:
        sounds = [{"array": wave, "sampling_rate": self.rate} for wave in waves]
        return self.model.encode(sounds, convert_to_numpy=True, show_progress_bar=False)


def open_listener(
    model: Any,
    processor: Any = None,
    *,
    name: str | None = None,
    revision: str | None = None,
    cache: Path,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Listener:
    """A listener for a model of any of the three kinds.

    Args:
        model: a folder or Hub id, a model with `get_audio_features` and `get_text_features`, a model of SLAP that
            has a part of these, as captioners and classifiers do, or a `SentenceTransformer`.
        processor: needed beside a model of transformers.
        name, revision: see `Listener`.
        cache: folder of what was computed.
        device: default: where the model is; for a folder CUDA if there is any, else the CPU.
        progress: show bars.
    Raises:
        ValueError: something else, or a folder without the weights of an audio encoder.
    """
    if isinstance(model, str | os.PathLike):
        place = os.fspath(model)
        name = name or (Path(place).resolve().name if os.path.isdir(place) else place)
        if name == "model" and os.path.isdir(place):
            name = Path(place).resolve().parent.name  # as in runs/tiny/model
        model, processor = _load(place, revision, processor)
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    elif device is not None:
        model = model.to(device)
    name = name or getattr(model, "name_or_path", "") or type(model).__name__
    name = Path(name).name if os.path.isdir(name) else name
    keywords = (name, revision, cache, progress)
    if type(model).__name__ == "SentenceTransformer":
        return SentenceTransformerListener(model.eval(), None, *keywords)
    audio = getattr(getattr(getattr(model, "slap", model), "audio_model", None), "config", None)
    own = isinstance(audio, SlapAudioConfig | SlapWindowedAudioConfig)
    missing = [f for f in ("get_audio_features", "get_text_features") if not own and not hasattr(model, f)]
    if missing or processor is None:
        lacks = " and ".join(missing) or "processor="
        raise ValueError(
            f"model is {type(model).__name__} without {lacks}; "
            "accepted are a folder or Hub id, a model with both of these and its processor, a model of SLAP with its "
            "processor, and a SentenceTransformer"
        )
    return (SlapListener if own else Listener)(model.eval(), processor, *keywords)


def _is_slap(place: str) -> bool:
    """Whether a folder is SLAP's, which sentence-transformers can read too."""
    config = Path(place, "config.json")
    return config.is_file() and json.loads(config.read_text()).get("model_type") == SlapConfig.model_type


def _load(place: str, revision: str | None, processor: Any) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoProcessor

    if os.path.isfile(os.path.join(place, "modules.json")) and not _is_slap(place):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(place, revision=revision), None
    check_place(place)
    keywords = {} if revision is None else {"revision": revision}
    model, info = AutoModel.from_pretrained(place, output_loading_info=True, **keywords)
    new = {key.split(".")[0] for key in info["missing_keys"]}
    if isinstance(model, SlapModel) and new & {"audio_model", "audio_projection", "text_model", "text_projection"}:
        if "audio_model" in new:
            raise ValueError(f"{place!r} lacks weights of its audio encoder; a model that is partly new is not judged")
        kept = SlapAudioTower if "audio_projection" in new else SlapAudioModelWithProjection
        model = _with_parts_of(kept, model)
    if isinstance(model.config, SlapAudioConfig | SlapWindowedAudioConfig):  # an audio encoder alone
        extractor = processor or SlapFeatureExtractor.from_pretrained(place, **keywords)
        config = SlapConfig(audio_config=model.config, name_or_path=place)
        with torch.device("meta"):
            tower = SlapAudioTower(config)
        tower.audio_model = model
        return tower, extractor
    return model, processor or AutoProcessor.from_pretrained(place, **keywords)


def _with_parts_of(kind: type[SlapPreTrainedModel], model: SlapPreTrainedModel) -> SlapPreTrainedModel:
    """A model of another class that shares the parts of the same names."""
    with torch.device("meta"):
        result = kind(model.config)
    for name, _ in list(result.named_children()):
        setattr(result, name, getattr(model, name))
    return result.eval()


def _model_hash(model: Any, extractor: Any) -> str:
    """Of weights, configuration, settings of the front end, and our version."""
    from .. import __version__

    digest = hashlib.sha256(__version__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    # Of the settings only what differs from the defaults: a new one leaves the hashes of old models as they are.
    config = getattr(model, "config", None)
    usual = {} if extractor is None else signature(type(extractor)).parameters
    of_sound = {} if extractor is None else extractor.to_dict()
    of_sound = {k: v for k, v in of_sound.items() if k not in usual or v != usual[k].default}
    for settings in ({} if config is None else config.to_diff_dict(), of_sound):
        digest.update(_settings(settings).encode())
    return digest.hexdigest()[:16]


def _settings(settings: dict) -> str:
    return json.dumps({k: v for k, v in settings.items() if k not in _NOT_SETTINGS}, sort_keys=True, default=str)


def _tokenizer_hash(owner: Any) -> str:
    """Of what the tokenizer of a processor or of a SentenceTransformer makes of texts."""
    tokenizer = getattr(owner, "tokenizer", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a SentenceTransformer may name its processor so
    rules = {name: getattr(tokenizer, name, None) for name in _OF_TOKENIZERS}
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        rules |= json.loads(backend.to_str())
    elif hasattr(tokenizer, "get_vocab"):
        rules["vocabulary"] = tokenizer.get_vocab()
    rules |= {"padding": None, "truncation": None}  # every call sets these anew
    return hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _heard(clips: Clips, found: Any, failed: dict[str, str]) -> Heard:
    keys = list(clips.data["key"])
    here = [key in found and key not in failed for key in keys]
    rows = np.flatnonzero(here)
    ids = clips.data["id"]
    lost = [(ids[row], failed.get(keys[row], "not heard")) for row in np.flatnonzero(~np.array(here)).tolist()]
    return Heard(_Lazy(found, [keys[row] for row in rows]), rows, lost)


class _Lazy(Sequence):
    """Arrays that are read when they are asked for."""

    def __init__(self, found: Any, keys: list[str]):
        self._found, self._keys = found, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index):
        return self._found[self._keys[index]]


def _pooled(output: Any) -> np.ndarray:
    values = output if isinstance(output, torch.Tensor) else output.pooler_output
    return values.float().cpu().numpy()


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    values = np.asarray(values, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
