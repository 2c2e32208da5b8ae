"""What is heard in sounds of any number and length: labels with scores, and captions.

listener = hf_slap.Listener("org/slap")
listener.classify("clip.wav", ["a dog", "rain"])  # as transformers' zero-shot pipeline, and then
listener.classify("hours.flac", labels, template=["the sound of {}", "{} can be heard"], multi_label=True, top_k=5)
listener.caption("hours.flac")  # one for each 30 s
"""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from .embedding import Clip, embed_clips, open_audio_side
from .modeling.audio_slap import AudioError
from .modeling.pipeline_slap import AudioCaptioningPipeline
from .presence import BACKGROUND, TEMPLATE, presence, prompts

_TEXTS_AT_ONCE = 64
_CAPTIONS_AT_ONCE = 8
_LEAST_SECONDS = 1.0  # a shorter rest is captioned with what comes before it


class Caption(NamedTuple):
    """What is written of a stretch of a recording, from `start` to `end` in seconds."""

    start: float
    end: float
    text: str


class Labels(NamedTuple):
    """Labels as a model knows them: what scores are computed from.

    Args:
        names: of the labels.
        embeds: (L, P), unit norm.
        scale: multiplier of the similarities.
        bias: added to them; 0 for a model trained with softmax.
        background: (K, P), unit norm, against which each label is judged by itself; None: labels compete.
    """

    names: list[str]
    embeds: np.ndarray
    scale: float
    bias: float = 0.0
    background: np.ndarray | None = None

    def scores(self, audio: np.ndarray) -> np.ndarray:
        """Scores of sounds: softmax over the labels, or the presence of each (see `presence`).

        Args:
            audio: (N, P), unit norm.
        Returns:
            (N, L), 0 to 1.
        """
        if self.background is not None:
            return presence(audio, self.embeds, self.background, self.scale)
        logits = self.scale * (audio @ self.embeds.T) + self.bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def rank(self, audio: np.ndarray, top_k: int | None = None) -> list[dict[str, Any]]:
        """The labels of one sound, best first, as transformers' pipelines have them.

        Args:
            audio: (P,) of a sound, or (W, P) of its windows: then a label's score is that of its best window.
            top_k: how many; None: all.
        Returns:
            {"score": float, "label": str} of each.
        """
        scores = self.scores(np.atleast_2d(audio)).max(0)
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [{"score": float(scores[row]), "label": self.names[row]} for row in best]


class Listener:
    """A SLAP model that was loaded once, for classifying and captioning.

    Args:
        model: a folder or Hub id, a `SlapModel` or `SlapForPreTraining`; None: the model that comes with this package.
        processor: needed beside a model, read from the folder otherwise.
        revision: of a Hub id: a commit, branch or tag.
        device: default: where the model is; for a folder CUDA if there is any, else the CPU.
    Raises:
        ValueError: a model without SLAP's audio encoder and a text side, or a model without its processor.
        FileNotFoundError: a folder that is not there, or holds no model.
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        revision: str | None = None,
        device: torch.device | str | None = None,
    ):
        if model is None:
            from . import bundled

            model = bundled("slap-nano")
        self.place = os.fspath(model) if isinstance(model, str | os.PathLike) else model.name_or_path
        if isinstance(model, str | os.PathLike):
            from transformers import AutoModel, AutoProcessor

            check_place(self.place)
            options = {"revision": revision} if revision else {}
            processor = processor or AutoProcessor.from_pretrained(self.place, **options)
            model = AutoModel.from_pretrained(self.place, **options)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        only_writes = hasattr(model, "generate") and not hasattr(model, "get_text_features")
        model = getattr(model, "slap", model)
        self.model = model.to(device) if device else model
        self.processor = processor
        self._side, self._extractor = open_audio_side(self.model, processor, None, None)
        if not hasattr(self.model, "get_text_features") and not only_writes:
            raise ValueError(f"model is {type(model).__name__}, which has no text side; accepted is SlapModel")
        self.model.eval()
        self._texts: dict[str, np.ndarray] = {}
        self._revision = revision

    # ------------------------------------------------------------------------------------------------ labels

    def classify(
        self,
        sounds: Any,
        labels: Sequence[str],
        *,
        template: str | Sequence[str] = TEMPLATE,
        multi_label: bool = False,
        top_k: int | None = None,
        anywhere: bool = False,
        sampling_rate: int | None = None,
        resample: bool = False,
    ) -> Any:
        """Which labels fit. For a short clip and one template what the pipeline `zero-shot-audio-classification` says,
        but that texts beyond the model's limit are cut with a warning.

        Args:
            sounds: one sound, in any form that `SlapFeatureExtractor.load` reads, or a list or an iterator of them. Of
                any length: a file of hours passes through window by window.
            labels: texts.
            template: makes a text of a label; several are an ensemble, averaged as unit vectors.
            multi_label: judge each label by itself, against everyday sounds; scores then do not sum to 1.
            top_k: so many labels of each sound; None: all.
            anywhere: of a long recording, a label's score is that of its best window. Otherwise the recording has one
                embedding, to which each window contributes by the time that it owns.
            sampling_rate, resample: for arrays, as in `SlapFeatureExtractor.load`.
        Returns:
            {"score", "label"} of each label, best first; for a list, a list of these; for an iterator, an iterator.
        Raises:
            AudioError: a sound cannot be heard.
            ValueError: no labels, or a template without {}.
        """
        known = self.labels(labels, template, multi_label)
        rates = {"sampling_rate": sampling_rate, "resample": resample}

        def ranked() -> Iterator[list[dict]]:
            for clip in self.embed(enumerate_sounds(sounds), each_window=anywhere, **rates):
                if clip.reason is not None:
                    raise AudioError(clip.reason)
                yield known.rank(clip.embedding, top_k)

        return _in_the_form_of(sounds, ranked())

    def embed(self, items: Iterable[tuple[str, Any]], *, each_window: bool = False, **keywords: Any) -> Iterator[Clip]:
        """Embeds sounds as they come, see `embed_clips`; those that cannot be heard come with their reason."""
        bar = keywords.pop("bar", None) or tqdm(disable=True)
        for ended in embed_clips(
            iter(items), self._side, self._extractor, bar=bar, each_window=each_window, **keywords
        ):
            yield from ended

    def labels(
        self, names: Sequence[str], template: str | Sequence[str] = TEMPLATE, multi_label: bool = False
    ) -> Labels:
        """Labels ready for scoring; arguments as in `classify`."""
        templates = [template] if isinstance(template, str) else list(template)
        if not templates:
            raise ValueError("template is an empty list; pass one text with {} in it, or several")
        embeddings, bias = self._ensemble([prompts(names, one) for one in templates]), self.model.bias
        return Labels(
            list(names),
            embeddings,
            self.model.scale.item(),
            0.0 if bias is None else bias.item(),
            self._ensemble([prompts(BACKGROUND, one) for one in templates]) if multi_label else None,
        )

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(M, P) float32, unit norm. Every text is computed once and kept."""
        if not hasattr(self.model, "get_text_features"):
            raise ValueError(
                f"{self.place!r} is a captioner, which has no text side; labels and queries need a SlapModel"
            )
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(missing), _TEXTS_AT_ONCE):
            group = missing[start : start + _TEXTS_AT_ONCE]
            inputs = self.processor(text=group, return_tensors="pt", padding=True).to(self.model.device)
            with torch.inference_mode():
                embeds = self.model.get_text_features(**inputs).pooler_output
            self._texts.update(zip(group, embeds.float().cpu().numpy(), strict=True))
        return np.stack([self._texts[text] for text in texts])

    def _ensemble(self, texts: list[list[str]]) -> np.ndarray:
        """(L, P): the mean over templates, as unit vectors; one template's embeddings as they are."""
        mean = np.mean([self.embed_texts(group) for group in texts], axis=0)
        return mean if len(texts) == 1 else mean / np.linalg.norm(mean, axis=1, keepdims=True)

    # ------------------------------------------------------------------------------------------------ captions

    def caption(
        self,
        sounds: Any,
        *,
        seconds: float | None = None,
        sampling_rate: int | None = None,
        resample: bool = False,
        **generate_kwargs: Any,
    ) -> Any:
        """What is heard, in words: one caption for each piece of a sound, in bounded memory.

        Args:
            sounds: as in `classify`.
            seconds: length of a piece; default: the longest that the model was trained on, so that a short clip has one
                caption, that of the pipeline. A last piece below 1 s belongs to the one before it.
            sampling_rate, resample: for arrays.
            generate_kwargs: as for the pipeline "audio-captioning", such as `num_beams=3`.
        Returns:
            a list of `Caption`; for a list of sounds a list of lists, for an iterator an iterator.
        Raises:
            AudioError: a sound cannot be heard.
            ValueError: the model writes no captions, or `seconds` below 1.
        """
        rates = {"sampling_rate": sampling_rate, "resample": resample}

        def written() -> Iterator[list[Caption]]:
            for _, captions, reason in self.caption_each(enumerate_sounds(sounds), seconds, **rates, **generate_kwargs):
                if reason is not None:
                    raise AudioError(reason)
                yield captions

        return _in_the_form_of(sounds, written())

    def caption_each(
        self,
        items: Iterable[tuple[str, Any]],
        seconds: float | None = None,
        *,
        sampling_rate: int | None = None,
        resample: bool = False,
        **generate_kwargs: Any,
    ) -> Iterator[tuple[str, list[Caption], str | None]]:
        """As `caption`, for (id, sound): yields (id, captions, None), or (id, [], why it cannot be heard)."""
        seconds = self._side.config.audio_config.max_audio_seconds if seconds is None else seconds
        if not seconds >= _LEAST_SECONDS:
            raise ValueError(f"seconds={seconds!r} must be at least {_LEAST_SECONDS:g}")
        found: dict[str, list[Caption]] = {}

        def pieces() -> Iterator[tuple[str, float, np.ndarray | None, str | None]]:
            for name, item in items:
                named = None if isinstance(item, str | os.PathLike) else f"clip {name!r}"
                try:
                    for start, wave in self._pieces(
                        self._extractor.stream(item, sampling_rate, resample, named), seconds
                    ):
                        yield name, start, wave, None
                    yield name, 0.0, None, None  # its end
                except (AudioError, OSError, RuntimeError) as error:
                    yield name, 0.0, None, str(error) or type(error).__name__

        for group in _groups(pieces(), _CAPTIONS_AT_ONCE):
            waves = [wave for _, _, wave, _ in group if wave is not None]
            texts = iter(self.write(waves, **generate_kwargs))
            for name, start, wave, reason in group:
                if wave is not None:
                    end = start + len(wave) / self._extractor.sampling_rate
                    found.setdefault(name, []).append(Caption(start, end, next(texts)))
                else:
                    captions = found.pop(name, [])
                    yield name, [] if reason else captions, reason

    def write(self, waves: Sequence[np.ndarray], **generate_kwargs: Any) -> list[str]:
        """A caption of each waveform (n,) at the model's rate, however long."""
        rate, size = self._extractor.sampling_rate, max(1, min(len(waves), _CAPTIONS_AT_ONCE))
        written = self.captioner(list(waves), sampling_rate=rate, batch_size=size, **generate_kwargs)
        return [captions[0]["generated_text"] for captions in written]

    @functools.cached_property
    def captioner(self) -> AudioCaptioningPipeline:
        """The pipeline "audio-captioning" of this model's folder, see `open_captioner`."""
        return open_captioner(self.place, self.processor, self.model.device, self._revision)

    def _pieces(self, blocks: Iterable[np.ndarray], seconds: float) -> Iterator[tuple[float, np.ndarray]]:
        """A waveform in blocks as (start in seconds, piece)."""
        rate = self._extractor.sampling_rate
        size, least, start, kept = round(seconds * rate), round(_LEAST_SECONDS * rate), 0, np.zeros(0, np.float32)
        for block in blocks:
            kept = np.concatenate([kept, block])
            while len(kept) >= size + least:
                yield start / rate, kept[:size]
                kept, start = kept[size:], start + size
        if len(kept):
            yield start / rate, kept


def check_place(place: str) -> None:
    """Refuses a folder that is not there or holds no model; what may be a Hub id passes.

    Raises:
        FileNotFoundError: the folder, and what is missing.
    """
    if os.path.isdir(place):
        if not any(os.path.exists(os.path.join(place, f"{name}config.json")) for name in ("", "adapter_")):
            raise FileNotFoundError(f"folder {place!r} holds no model: there is no config.json in it")
    elif place.startswith((".", "~", os.sep)) or place.count("/") > 1:
        raise FileNotFoundError(f"there is no folder {place!r}")


def open_listener(model: Any = None, processor: Any = None, device: torch.device | str | None = None) -> Listener:
    """A `Listener` as it is; anything else as `Listener` takes it."""
    return model if isinstance(model, Listener) else Listener(model, processor, device=device)


def open_captioner(
    place: str, processor: Any, device: torch.device | str | None, revision: str | None = None
) -> AudioCaptioningPipeline:
    """The pipeline "audio-captioning" of a folder or Hub id.

    Raises:
        ValueError: the model has no caption decoder, or came without its folder.
    """
    if not place:
        raise ValueError("the model was passed without its folder; pass the folder to read its captions")
    from transformers import AutoModelForSpeechSeq2Seq

    options = {"revision": revision} if revision else {}
    captioner, info = AutoModelForSpeechSeq2Seq.from_pretrained(place, output_loading_info=True, **options)
    if info["missing_keys"]:
        raise ValueError(f"{place!r} has no caption decoder, so it writes no captions")
    return AudioCaptioningPipeline(
        model=captioner,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device=device,
    )


def enumerate_sounds(sounds: Any) -> Iterator[tuple[str, Any]]:
    """(id, sound) of one sound or of several; numbers are the ids."""
    return ((str(number), sound) for number, sound in enumerate(sounds if _are_several(sounds) else [sounds]))


def _are_several(sounds: Any) -> bool:
    return isinstance(sounds, list | tuple | Iterator)


def _in_the_form_of(sounds: Any, results: Iterator) -> Any:
    """One result for one sound, a list for a list, an iterator for an iterator."""
    if isinstance(sounds, Iterator):
        return results
    return list(results) if _are_several(sounds) else next(results)


def _groups(items: Iterator, size: int) -> Iterator[list]:
    while group := list(islice(items, size)):
        yield group
