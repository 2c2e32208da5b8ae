"""Embeds any number of clips of any length: `embed(folder, model)` reads, listens and writes at the same time.

    sources   ->  threads             ->  look-ahead     ->  batches          ->  parts on disk
    clips         decode, resample,       bounded, in        windows of many      id, seconds, embedding;
                  log-mel, windows        source order       clips, packed        resumable

The unit of work is a window: the model cuts clips longer than it was trained on into overlapping ones, and a file of
hours passes through window by window. A clip's embedding is that of `get_audio_features`, whatever its neighbours.
"""

import copy
import hashlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, PreTrainedConfig

from .files import UNFINISHED, write_whole
from .modeling.audio_slap import AudioError
from .modeling.configuration_slap import SlapAudioConfig, SlapWindowedAudioConfig
from .modeling.feature_extraction_slap import SlapFeatureExtractor
from .modeling.modeling_slap import (
    SlapAudioModelOutput,
    SlapAudioModelWithProjection,
    SlapModel,
    audio_windows,
    pool_windows,
)
from .quantization import quantize_int8
from .sound_files import find_sound_files

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

BATCH_SECONDS = {"cpu": 60.0, "cuda": 1200.0}  # more is not faster: 60 s are 1,500 rows in every matrix product
POOL_BATCHES = 4  # batches are cut from this many batches' worth of windows sorted by length
PART_CLIPS = 4096  # rows of a part file
PART_SECONDS = 300.0  # a part is written after this time even if it has fewer
_FORMAT = 1
_DTYPES = ("float32", "bfloat16", "float16")


def embed(
    source: Any,
    model: SlapModel | str | os.PathLike,
    processor: Any = None,
    *,
    output: str | os.PathLike | None = None,
    sampling_rate: int | None = None,
    resample: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    int8: bool = False,
    batch_seconds: float | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> "Embeddings":
    """Embeds many clips, in bounded memory, while threads read ahead.

    Every embedding equals `model.get_audio_features` of the whole clip within 1e-5 (in float32), for a path, an array
    and bytes alike. Clips that cannot be heard are listed with their reasons; the rest is embedded.

    Args:
        source: a folder (searched through for sound files; ids are the paths inside it), a file, a glob, a list of
            paths; a `datasets.Dataset`, such as `load_corpus` returns (ids from its column "id", else row numbers; the
            sound is not decoded by it); or any iterable of items that `SlapFeatureExtractor.load` reads, or of rows
            {"id", "audio"}. Items without an id are numbered.
        model: a `SlapModel` (or `SlapForPreTraining`), or a folder or Hub id, of which only the audio side is loaded.
        processor: a `SlapProcessor` or `SlapFeatureExtractor`; needed beside a model, read from the folder otherwise.
        output: a folder for the results. A run that was broken off goes on there: clips in whole part files are
            skipped, failed ones tried again. At most the last five minutes or 4,096 clips are lost. None: a temporary
            folder that lives as long as the result.
        sampling_rate, resample: for arrays, as in `SlapFeatureExtractor.load`.
        device: default: where the model is; for a folder CUDA if there is any, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; default: the model's. Half precision is for GPUs: CPUs without
            matching instructions are slower with it. Results are float32.
        int8: eight-bit weights on CPU (see `quantize_int8`). The scale of the inputs is that of a batch, so that
            embeddings then depend a little on `batch_seconds` and on their neighbours.
        batch_seconds: sound in one forward; default: 60 on a CPU, 1200 on a GPU. Results do not depend on it.
        workers: threads that read; default: 2 on a CPU, one per core up to 16 on a GPU.
        progress: show a bar, and a summary at the end.
    Returns:
        Embeddings, in the order of the source.
    Raises:
        FileNotFoundError: a folder or a glob without any sound file, or no such path.
        ValueError: an id that comes twice, a model without an audio side of its own, an output folder that another
            model or other settings have begun, or an argument out of range.
        ImportError: `datasets` is not installed.
    """
    _require_datasets()
    if batch_seconds is not None and not batch_seconds > 0:
        raise ValueError(f"batch_seconds={batch_seconds!r} must be positive")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers!r} must be at least 1")
    clips = _open_source(source)
    side, extractor = open_audio_side(model, processor, device, dtype)
    fingerprint = model_fingerprint(side, extractor, int8)
    side = quantize_int8(side) if int8 else side

    temporary = tempfile.TemporaryDirectory(prefix="slap-embeddings-") if output is None else None
    parts = _Parts(Path(temporary.name if temporary else output), fingerprint, side.config.projection_dim)

    start = time.monotonic()
    before = len(parts.finished if clips.total is None else parts.finished.intersection(clips.ids))
    embedded, seconds = 0, 0.0
    rates = {"sampling_rate": sampling_rate, "resample": resample}
    how = {"batch_seconds": batch_seconds, "workers": workers}
    with tqdm(total=clips.total, desc="embedding", unit="clip", disable=not progress) as bar:
        bar.update(min(before, clips.total or 0))
        for ended in embed_clips(clips.items(parts.finished), side, extractor, bar=bar, **rates, **how):
            for clip in ended:
                if clip.reason is None:
                    embedded, seconds = embedded + 1, seconds + clip.samples / extractor.sampling_rate
                    parts.add(clip.id, clip.samples / extractor.sampling_rate, clip.embedding)
                else:
                    parts.add_failure(clip.id, clip.reason)
            bar.update(len(ended))
    parts.close()

    took = time.monotonic() - start
    summary = (
        f"embedded {embedded} clips, {seconds / 3600:.2f} h of sound in {took:.1f} s "
        f"({seconds / took:.0f} s of audio per second)"
    )
    if before:
        summary += f"; {before} were there already"
    if parts.failed:
        summary += f"; {len(parts.failed)} failed, listed in {parts.failures_file if output else '`failed`'}"
    if progress:
        tqdm.write(summary, file=sys.stderr)
    logger.info(summary)
    return Embeddings(parts.dataset(clips.ids), parts.failed, parts.folder, summary, temporary)


def embed_clips(
    items: Iterator[tuple[str, Any]],
    side: SlapAudioModelWithProjection,
    extractor: SlapFeatureExtractor,
    *,
    bar: tqdm,
    config: SlapAudioConfig | None = None,
    each_window: bool = False,
    sampling_rate: int | None = None,
    resample: bool = False,
    batch_seconds: float | None = None,
    workers: int | None = None,
) -> Iterator[list["Clip"]]:
    """What `embed` and an index of sounds share: clips go in, embedded clips come out, a batch of clips at a time.

    Args:
        items: (id, sound) of each clip; threads of ours iterate, one at a time.
        side, extractor: as `open_audio_side` returns them.
        bar: is told the speed; its count is the caller's.
        config: whose windows are cut in place of the model's.
        each_window: embed every window by itself, rather than the clip.
        sampling_rate, resample, batch_seconds, workers: as in `embed`.
    Yields:
        clips in their order, each with its embedding or with the reason why it has none.
    """
    config = config or side.config.audio_config
    on_cpu = side.device.type == "cpu"
    batch_seconds = batch_seconds or BATCH_SECONDS["cpu" if on_cpu else "cuda"]
    workers = workers or (2 if on_cpu else min(16, os.cpu_count() or 1))
    batch_frames = max(config.patch_frames, round(batch_seconds * config.frames_per_second))

    def prepare(clip: Clip, item: Any) -> Iterator[np.ndarray]:
        return _prepare(clip, item, extractor, config, sampling_rate, resample)

    look_ahead = _LookAhead(items, prepare, workers, POOL_BATCHES * batch_frames)
    with look_ahead, evaluating(side):
        yield from _encode_clips(look_ahead, side, batch_frames, each_window, bar)


@dataclass
class Embeddings:
    """What `embed` returns.

    Args:
        dataset: columns "id" (str), "seconds" (float, of the clip) and "embedding" (P float32, unit norm), in the
            order of the source; mapped from files, never whole in memory.
        failed: (id, reason) of the clips that could not be heard.
        folder: where the files lie: part-*.arrow, fingerprint.json, failed.jsonl. A temporary one is removed with
            this object.
        summary: what the run did, in a line.
    """

    dataset: "Dataset"
    failed: list[tuple[str, str]]
    folder: Path
    summary: str
    _temporary: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    def to_npy(self, folder: str | os.PathLike) -> None:
        """Writes embeddings.npy, (clips, P) float32, and ids.json, the ids of its rows."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        size = self.dataset.features["embedding"].length
        path = folder / "embeddings.npy"
        if len(self.dataset):
            table = np.lib.format.open_memmap(path, "w+", np.float32, (len(self.dataset), size))
            row = 0
            for batch in self.dataset.select_columns(["embedding"]).with_format("numpy").iter(1024):
                table[row : row + len(batch["embedding"])] = batch["embedding"]
                row += len(batch["embedding"])
            table.flush()
        else:
            np.save(path, np.zeros((0, size), np.float32))  # a file of no rows cannot be mapped
        (folder / "ids.json").write_text(json.dumps(list(self.dataset["id"]), ensure_ascii=False), encoding="utf-8")


# ------------------------------------------------------------------------------------------------ what is embedded


@dataclass
class _Source:
    """Clips to embed.

    Args:
        ids: of all clips in order; of a lazy source, of those taken so far.
        total: number of clips, None where only the end will tell.
        items: from ids to leave out, an iterator of (id, item). Items that are left out are not read.
    """

    ids: list[str]
    total: int | None
    items: Callable[[set[str]], Iterator[tuple[str, Any]]]


def _open_source(source: Any) -> _Source:
    from datasets import Dataset

    if isinstance(source, str | os.PathLike):
        return _known(*find_sound_files(source))
    if isinstance(source, Dataset):
        return _open_dataset(source)
    if isinstance(source, list | tuple):
        ids = [_id_of(item, number) for number, item in enumerate(source)]
        return _known(ids, source)
    if isinstance(source, dict | bytes) or hasattr(source, "ndim") or not isinstance(source, Iterable):
        raise ValueError(
            f"source is {type(source).__name__}; accepted are a folder, a glob, a split of a dataset, and a list "
            "or another iterable of clips: put a single clip into a list"
        )
    return _lazy(source)


def _known(ids: list[str], items: Any) -> _Source:
    if len(set(ids)) < len(ids):
        counted: set[str] = set()
        twice = next(clip for clip in ids if clip in counted or counted.add(clip))
        raise ValueError(f"id {twice!r} comes twice; give every clip an id of its own")

    def rest(finished: set[str]) -> Iterator[tuple[str, Any]]:
        return ((clip, _sound_of(items[row])) for row, clip in enumerate(ids) if clip not in finished)

    return _Source(ids, len(ids), rest)


def _lazy(source: Iterable) -> _Source:
    ids: list[str] = []

    def rest(finished: set[str]) -> Iterator[tuple[str, Any]]:
        seen = set()
        for number, item in enumerate(source):
            clip = _id_of(item, number)
            if clip in seen:
                raise ValueError(f"id {clip!r} comes twice; give every clip an id of its own")
            seen.add(clip)
            ids.append(clip)
            if clip not in finished:
                yield clip, _sound_of(item)

    return _Source(ids, None, rest)


def _open_dataset(dataset: "Dataset") -> _Source:
    from datasets import Audio

    from .data.corpus import find_audio_column

    column = find_audio_column(dataset, None, "the dataset")
    ids = list(map(str, dataset["id"] if "id" in dataset.column_names else range(len(dataset))))
    sound = dataset.with_format(None).select_columns([column])
    if isinstance(sound.features[column], Audio):
        sound = sound.cast_column(column, Audio(decode=False))
    return _known(ids, sound if column == "audio" else sound.rename_column(column, "audio"))


def _id_of(item: Any, number: int) -> str:
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    return str(item.get("id", number) if isinstance(item, dict) else number)


def _sound_of(item: Any) -> Any:
    return item["audio"] if isinstance(item, dict) and "audio" in item else item


# ------------------------------------------------------------------------------------------------ from sound to windows


@dataclass
class Clip:
    """A clip on its way.

    Args:
        id: of the source.
        samples: heard so far, at the model's rate.
        owned: patch columns that each window owns.
        pooled: (D,) of each window that is encoded.
        reason: why it cannot be heard; None while nothing is wrong.
        embedding: (P,), or (windows, P), at the end.
    """

    id: str
    samples: int = 0
    owned: list[int] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    reason: str | None = None
    embedding: np.ndarray | None = None


def _prepare(
    clip: Clip,
    item: Any,
    extractor: SlapFeatureExtractor,
    config: SlapAudioConfig,
    sampling_rate: int | None,
    resample: bool,
) -> Iterator[np.ndarray]:
    """Log-mel frames of each window of a clip. What is wrong with the clip is noted in it."""
    name = None if isinstance(item, str | os.PathLike) else f"clip {clip.id!r}"

    def counted() -> Iterator[np.ndarray]:
        for block in extractor.stream(item, sampling_rate, resample, name):
            clip.samples += len(block)
            yield block

    try:
        for frames, (*_, own_start, own_end) in cut_windows(extractor.log_mel_blocks(counted()), config):
            clip.owned.append(own_end - own_start)
            yield frames
    except (AudioError, OSError, RuntimeError) as error:  # RuntimeError: a decoder's own
        clip.reason = str(error) or type(error).__name__


def cut_windows(
    blocks: Iterable[np.ndarray], config: SlapAudioConfig
) -> Iterator[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """The windows of `audio_windows`, each as soon as its place is certain.

    Args:
        blocks: (n, M), the log-mel frames of one clip in blocks of any length.
        config: of the audio encoder.
    Yields:
        frames of a window (n, M), a whole number of patches, and the window: its start and end, and those of the part
        it owns, in patch columns of the clip.
    """
    width = config.patch_frames
    kept, first, done = np.zeros((0, config.num_mel_bins), np.float32), 0, 0  # frames, column of the first, windows out

    def ready(windows: list[tuple[int, int, int, int]]) -> Iterator[tuple[np.ndarray, tuple[int, int, int, int]]]:
        for window in windows:
            yield kept[(window[0] - first) * width : (window[1] - first) * width].copy(), window

    windows: list[tuple[int, int, int, int]] = []
    for block in blocks:
        kept = np.concatenate([kept, block]) if len(kept) else block
        windows = audio_windows(first + len(kept) // width, config)
        yield from ready(windows[done:-2])
        done = max(done, len(windows) - 2)
        kept, first = kept[(windows[done][0] - first) * width :], windows[done][0]
    yield from ready(windows[done:])


class _Stopped(Exception):
    """The run has ended before the clip."""


class _LookAhead:
    """Clips prepared by threads, window by window, in the order of the source.

    Iterating yields (clip, frames of a window), and (clip, None) at the end of each clip. Used as a context, which
    stops the threads.

    Args:
        items: (id, item), read by one thread at a time.
        prepare: from a clip and its item, the frames of its windows.
        workers: number of threads.
        most_frames: threads rest while this many frames wait to be used; only the clip that is waited for may go on.
            At most one window of each thread is held beyond it.
    """

    def __init__(self, items: Iterator[tuple[str, Any]], prepare: Callable, workers: int, most_frames: int):
        self._items, self._prepare, self._most = items, prepare, most_frames
        self._reading, self._changed = threading.Lock(), threading.Condition()
        self._waiting: dict[int, deque] = {}  # by the clip's place in the source
        self._frames = self._taken = self._in_use = 0
        self._exhausted = self._stopped = False
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> "_LookAhead":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[tuple[Clip, np.ndarray | None]]:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._error
                        or self._waiting.get(self._in_use)
                        or (self._exhausted and self._in_use == self._taken)
                    )
                )
                if self._error:
                    raise self._error
                if self._in_use not in self._waiting:
                    return
                clip, frames = self._waiting[self._in_use].popleft()
                self._frames -= 1 if frames is None else len(frames)
                if frames is None:
                    del self._waiting[self._in_use]
                    self._in_use += 1
                self._changed.notify_all()
            yield clip, frames

    def _work(self) -> None:
        try:
            while (taken := self._take()) is not None:
                place, clip, item = taken
                for frames in self._prepare(clip, item):
                    self._put(place, clip, frames)
                self._put(place, clip, None)
                del taken, item  # the bytes of a file, perhaps
        except _Stopped:
            pass
        except BaseException as error:  # raised again where the clips are used
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> tuple[int, Clip, Any] | None:
        with self._reading:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._frames < self._most)
                if self._stopped or self._exhausted:
                    return None
            taken = next(self._items, None)
            with self._changed:
                if taken is None:
                    self._exhausted = True
                    self._changed.notify_all()
                    return None
                place, self._taken = self._taken, self._taken + 1
                self._waiting[place] = deque()
            return place, Clip(taken[0]), taken[1]

    def _put(self, place: int, clip: Clip, frames: np.ndarray | None) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopped or self._frames < self._most or (place == self._in_use and not self._waiting[place])
                )  # it is waited for
            )
            if self._stopped:
                raise _Stopped
            self._waiting[place].append((clip, frames))
            self._frames += 1 if frames is None else len(frames)
            self._changed.notify_all()


# ------------------------------------------------------------------------------------------------ from windows to clips


def _encode_clips(
    look_ahead: Iterable[tuple[Clip, np.ndarray | None]],
    side: SlapAudioModelWithProjection,
    batch_frames: int,
    each_window: bool,
    bar: tqdm,
) -> Iterator[list[Clip]]:
    """Clips that are at their end, with embedding or reason, in the order of the source."""
    pool: list[tuple[Clip, np.ndarray]] = []
    frames, heard, ended, start = 0, 0.0, [], time.monotonic()
    for clip, window in look_ahead:
        if window is None:
            ended.append(clip)
        else:
            pool.append((clip, window))
            frames += len(window)
        if frames < POOL_BATCHES * batch_frames and len(ended) < PART_CLIPS:
            continue
        _encode_pool(pool, side, batch_frames)
        _project(ended, side, each_window)
        yield ended
        heard += frames / side.config.audio_config.frames_per_second
        bar.set_postfix_str(f"{heard / 3600:.2f} h heard, {heard / (time.monotonic() - start):.0f} s per second")
        pool, frames, ended = [], 0, []
    _encode_pool(pool, side, batch_frames)
    _project(ended, side, each_window)
    yield ended


def _encode_pool(pool: list[tuple[Clip, np.ndarray]], side: SlapAudioModelWithProjection, batch_frames: int) -> None:
    """Appends to each clip the pooled features of its windows. Windows of like length share a batch."""
    batches: list[list[int]] = []
    room = 0
    for number in sorted(range(len(pool)), key=lambda number: len(pool[number][1])):
        size = len(pool[number][1])
        if size > room:
            batches.append([])
            room = batch_frames
        batches[-1].append(number)
        room -= size
    pooled: dict[int, Tensor] = {}
    for batch in batches:
        windows = [pool[number][1] for number in batch]
        frames = torch.from_numpy(np.concatenate(windows)).to(side.device)
        with torch.inference_mode():
            output = side.audio_model(frames, clip_frames=[len(window) for window in windows])
        pooled.update(zip(batch, output.pooler_output.float().cpu(), strict=True))
    for number, (clip, _) in enumerate(pool):
        clip.pooled.append(pooled[number])


def _project(clips: list[Clip], side: SlapAudioModelWithProjection, each_window: bool) -> None:
    """Gives each clip that was heard its embedding, or that of each of its windows."""
    heard = [clip for clip in clips if clip.reason is None]
    for start in range(0, len(heard), 256):
        group = heard[start : start + 256]
        features = torch.stack([window for clip in group for window in clip.pooled])  # (windows, D)
        if not each_window:
            owned = [columns for clip in group for columns in clip.owned]
            clip_of_window = [number for number, clip in enumerate(group) for _ in clip.owned]
            features = pool_windows(features, owned, clip_of_window)  # (clips, D)
        features = features.to(side.device, side.audio_model.dtype)
        with torch.inference_mode():
            embeddings = side.embed_audio(SlapAudioModelOutput(pooler_output=features)).float().cpu().numpy()
        row = 0
        for clip in group:
            clip.embedding = embeddings[row : row + len(clip.owned)] if each_window else embeddings[row]
            row += len(clip.owned) if each_window else 1


# ------------------------------------------------------------------------------------------------ the model


def open_audio_side(
    model: Any, processor: Any, device: torch.device | str | None, dtype: torch.dtype | str | None
) -> tuple[SlapAudioModelWithProjection, SlapFeatureExtractor]:
    """The audio side, on its device and in its precision, and the feature extractor. The model is not changed."""
    extractor = getattr(processor, "feature_extractor", processor)
    if dtype is not None:
        if str(dtype).removeprefix("torch.") not in _DTYPES:
            raise ValueError(f"dtype={dtype!r}; accepted are {_DTYPES}")
        dtype = getattr(torch, str(dtype).removeprefix("torch."))
    if isinstance(model, str | os.PathLike):
        side, info = SlapAudioModelWithProjection.from_pretrained(
            model,
            config=AutoConfig.from_pretrained(model),  # that of a prefix captioner too
            output_loading_info=True,
            **({} if dtype is None else {"dtype": dtype}),
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{os.fspath(model)!r} lacks {sorted(info['missing_keys'])}; embeddings need a folder of SlapModel or "
                "SlapForPreTraining"
            )
        extractor = extractor or SlapFeatureExtractor.from_pretrained(model)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return side.to(device), extractor

    base = getattr(model, "slap", model)
    tower = getattr(base, "audio_model", None)
    if not hasattr(base, "audio_projection") or not hasattr(base, "embed_audio"):
        raise ValueError(
            f"model is {type(model).__name__}; accepted are SlapModel, SlapForPreTraining, a folder or a Hub id of one"
        )
    if extractor is None:
        raise ValueError("a model without its processor; pass processor=..., or the model's folder in place of both")
    with torch.device("meta"):
        side = SlapAudioModelWithProjection(base.config)
    side.audio_model, side.audio_projection = tower, base.audio_projection
    device = torch.device(device or tower.device)
    stays = device.type == tower.device.type and device.index in (None, tower.device.index)
    if not stays or dtype not in (None, tower.dtype):
        side = copy.deepcopy(side).to(device, dtype)
    return side, extractor


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout; afterwards every module is as it was."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


def model_fingerprint(side: SlapAudioModelWithProjection, extractor: SlapFeatureExtractor, int8: bool) -> dict:
    """All that an embedding depends on besides its clip."""
    from . import __version__

    config = side.config.audio_config
    layers = ("layer_types", "local_window", "local_window_unit", "num_attention_heads", "rope_theta", "rms_norm_eps")
    if isinstance(config, SlapWindowedAudioConfig):
        own = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
        layers = sorted(own - {"front_end"})  # the feature extractor is there itself
    windows = ("max_audio_seconds", "window_overlap_seconds", "long_audio", "frames_per_second", "patch_frames")
    settings = {
        "format": _FORMAT,
        "hf_slap": __version__,
        "weights": weights_digest(side.state_dict()),
        "precision": "int8" if int8 else str(side.audio_model.dtype).removeprefix("torch."),
        "layers": {name: getattr(config, name) for name in layers},
        "windows": {name: getattr(config, name) for name in windows},
        "feature_extractor": extractor.to_dict(),
    }
    return json.loads(json.dumps(settings))


def weights_digest(weights: dict[str, Any]) -> str:
    """SHA-256 of a state dict: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        for part in value if isinstance(value, tuple) else (value,):  # int8 layers hold (weight, bias)
            if isinstance(part, Tensor):
                part = part.dequantize() if part.is_quantized else part
                digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
                digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


# ------------------------------------------------------------------------------------------------ results on disk


class _Parts:
    """The output folder: whole part files, a fingerprint, and the list of failures.

    A part is an Arrow stream, written beside, flushed to the disk and renamed: it is there in full or not at all.

    Args:
        folder: made when missing.
        fingerprint: JSON values that must be those of the parts already there.
        size: of an embedding.
    Raises:
        ValueError: the folder was begun with another fingerprint.
    """

    def __init__(self, folder: Path, fingerprint: dict, size: int):
        from datasets import Features, Sequence, Value

        self.folder, self.failures_file = folder, folder / "failed.jsonl"
        vector = Sequence(Value("float32"), length=size)
        self.features = Features({"id": Value("string"), "seconds": Value("float64"), "embedding": vector})
        self.failed: list[tuple[str, str]] = []
        self.finished: set[str] = set()
        self._rows: list[tuple[str, float, np.ndarray]] = []
        self._flushed = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._check(fingerprint)
        for path in self._files():
            self.finished.update(_read_ids(path))
        self.failures_file.unlink(missing_ok=True)  # these clips are tried again

    def add(self, clip: str, seconds: float, embedding: np.ndarray) -> None:
        self._rows.append((clip, seconds, embedding))
        if len(self._rows) >= PART_CLIPS or time.monotonic() - self._flushed > PART_SECONDS:
            self.close()

    def add_failure(self, clip: str, reason: str) -> None:
        self.failed.append((clip, reason))
        with open(self.failures_file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"id": clip, "reason": reason}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Writes the rows that are in no part yet."""
        import pyarrow

        self._flushed = time.monotonic()
        if not self._rows:
            return
        ids, seconds, embeddings = zip(*self._rows, strict=True)
        schema = self.features.arrow_schema
        values = pyarrow.array(np.concatenate(embeddings))
        vectors = pyarrow.FixedSizeListArray.from_arrays(values, len(embeddings[0])).cast(
            schema.field("embedding").type
        )
        table = pyarrow.Table.from_arrays([pyarrow.array(ids), pyarrow.array(seconds), vectors], schema=schema)

        def write(file: Any) -> None:
            with pyarrow.ipc.new_stream(file, schema) as stream:
                stream.write_table(table)

        number = max((int(path.stem.removeprefix("part-")) for path in self._files()), default=-1) + 1
        write_whole(self.folder / f"part-{number:06d}.arrow", write)
        self._rows = []

    def dataset(self, ids: list[str]) -> "Dataset":
        """All rows with one of the given ids, in that order."""
        from datasets import Dataset, concatenate_datasets

        files = self._files()
        if not files:
            return Dataset.from_dict({name: [] for name in self.features}, features=self.features)
        row_of = {clip: row for row, clip in enumerate(clip for path in files for clip in _read_ids(path))}
        whole = concatenate_datasets([Dataset.from_file(str(path)) for path in files])
        rows = [row_of[clip] for clip in ids if clip in row_of]
        return whole if rows == list(range(len(whole))) else whole.select(rows)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.arrow"))

    def _check(self, fingerprint: dict) -> None:
        from .checkpoint import differences  # brings torch's distributed checkpoints along

        path = self.folder / "fingerprint.json"
        for left in self.folder.glob(f"{UNFINISHED}*"):
            left.unlink()
        if not path.exists():
            if self._files():
                raise ValueError(
                    f"{self.folder} holds parts and no fingerprint.json, so it is unclear which model made them; "
                    "choose another output folder"
                )
            write_whole(path, lambda file: file.write(json.dumps(fingerprint, indent=1).encode()))
            return
        if different := differences(json.loads(path.read_text(encoding="utf-8")), fingerprint):
            raise ValueError(
                f"{self.folder} was begun by another model or with other settings; go on with those, or choose another "
                "output folder:\n  " + "\n  ".join(different)
            )


def _read_ids(path: Path) -> list[str]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        return pyarrow.ipc.open_stream(file).read_all().column("id").to_pylist()


def _require_datasets() -> None:
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ImportError('embed() keeps its results with datasets: `pip install "hf_slap[train]"`') from error
