"""From rows of a corpus to the packed batch of a training step.

Letters: B clips, F frames of all clips together, M mel bins, N patches of all clips together, L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..modeling.audio_slap import AudioError
from .augmentation import (
    add_noise,
    append,
    apply_gain,
    change_speed,
    equalize,
    low_pass,
    mix,
    random_crop,
    reverberate,
    spec_augment,
)
from .batching import ClipRef
from .records import stable_hash

_PARTNERS_TRIED = 8
_TOGETHER = ("{} and {}",)
_IN_SEQUENCE = ("{}, then {}", "{}, followed by {}")
_EQUALIZER_BANDS = 8
_NOISE_SLOPES = (0.0, 2.0)  # white to brown


@dataclass(frozen=True)
class ClipSettings:
    """What is drawn anew for a clip in every epoch. The waveform's augmentations are off unless asked for.

    Args:
        seed: of the run; with the epoch and the position in it, the only source of chance.
        max_seconds: a longer clip is cropped to this, from a place drawn.
        mask_ratio: share of the patches that the student does not see.
        parallel_caption_share: probability that the decoder writes the caption at once and not token by token.
        time_masks, max_time_mask_frames, freq_masks, max_freq_mask_bins: see `spec_augment`; both counts 0 is off.
        gain_db: loudness is changed by up to so much, uniformly, both ways.
        low_pass_probability: of a low-pass filter.
        low_pass_hz: (lowest, highest) cutoff, uniform.
        speed_octaves: played up to so much faster and higher, or slower and lower, uniformly.
        reverb_probability: of a room that rings for 0.1 to 1 s, 3 to 20 dB below the sound.
        equalizer_db: each of eight bands is up to so much louder or softer, uniformly.
        noise_probability: of noise of some colour, `noise_snr_db` below the sound.
        noise_snr_db: (lowest, highest), uniform.
        silence_seconds: up to so much digital silence is put before and after every other clip, uniformly.
        mix_probability: of a second clip in the same scene, its caption joined to the first's: over it at a place
            drawn, where it is no longer than the first ("and"), or after it ("then").
        mix_level_db: the second is up to so much louder or softer than the first, uniformly.
        sequence_share: share of the mixed scenes in which the second comes after the first, as far as `max_seconds`
            leaves room for at least half a second of it.
        max_events: clips in one scene; each further one comes with `mix_probability`.
        group_column: clips equal in this column are not each other's negatives, such as "label" where few captions
            describe many clips. Default: clips with the same id. Nor are, in any case, those with equal captions, and
            scenes that a clip of one group was mixed into.
        prompts: texts with {} where the caption goes, such as "the sound of {}". The text tower reads the caption in
            one of them, drawn anew, or, as often as in each, alone; the decoder learns the caption itself.
        patch_frames, patch_bins: of the audio encoder.
        cache_mb: memory for decoded clips, in MB (1e6 bytes), in every worker of the loader.
    Raises:
        ValueError: a value outside its range.
    Paper: mask_ratio 0.5, SpecAugment, at most 30 s. The rest is not stated; chosen because small corpora need it.
    """

    seed: int = 0
    max_seconds: float = 30.0
    mask_ratio: float = 0.5
    parallel_caption_share: float = 0.0
    time_masks: int = 2
    max_time_mask_frames: int = 64
    freq_masks: int = 2
    max_freq_mask_bins: int = 8
    gain_db: float = 0.0
    low_pass_probability: float = 0.0
    low_pass_hz: tuple[float, float] = (2500.0, 8000.0)
    speed_octaves: float = 0.0
    reverb_probability: float = 0.0
    equalizer_db: float = 0.0
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    silence_seconds: float = 0.0
    mix_probability: float = 0.0
    mix_level_db: float = 6.0
    sequence_share: float = 0.0
    max_events: int = 2
    group_column: str | None = None
    prompts: tuple[str, ...] = ()
    patch_frames: int = 16
    patch_bins: int = 16
    cache_mb: float = 0.0

    def __post_init__(self):
        for name in (
            "low_pass_probability", "mix_probability", "parallel_caption_share", "reverb_probability",
            "noise_probability", "sequence_share",
        ):  # fmt: skip
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability lies between 0 and 1")
        for name in (
            "gain_db", "mix_level_db", "cache_mb", "seed", "speed_octaves", "equalizer_db", "silence_seconds",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if isinstance(self.prompts, str) or any("{}" not in prompt for prompt in self.prompts):
            raise ValueError(f"prompts is {self.prompts!r}; expected a list of texts with {{}} where the caption goes")
        if self.max_events < 2:
            raise ValueError(f"max_events is {self.max_events}; a mixed scene has at least 2, or set mix_probability=0")
        if len(self.noise_snr_db) != 2 or not self.noise_snr_db[0] <= self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db is {self.noise_snr_db}; expected (lowest, highest) in dB")
        if len(self.low_pass_hz) != 2 or not 0 < self.low_pass_hz[0] <= self.low_pass_hz[1]:
            raise ValueError(f"low_pass_hz is {self.low_pass_hz}; expected (lowest, highest) in Hz")
        if not 0.0 <= self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it lies at 0 or above and below 1, the paper's is 0.5")
        for name in ("time_masks", "max_time_mask_frames", "freq_masks", "max_freq_mask_bins"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.max_seconds * 100 < self.patch_frames:
            raise ValueError(f"max_seconds is {self.max_seconds}; a clip needs at least one patch of frames")

    @property
    def changes_waveform(self) -> bool:
        asked = (
            self.gain_db, self.low_pass_probability, self.mix_probability, self.speed_octaves, self.reverb_probability,
            self.equalizer_db, self.noise_probability, self.silence_seconds,
        )  # fmt: skip
        return any(amount > 0 for amount in asked)

    @property
    def most_events(self) -> int:
        """Clips in one scene at most."""
        return self.max_events if self.mix_probability else 1


@dataclass(frozen=True)
class TrainingClip:
    """One clip as it is trained on: T frames, a multiple of the patch's."""

    id: str
    caption: str
    features: np.ndarray  # (T, M) float32, SpecAugmented
    teacher_features: np.ndarray  # (T, M) float32
    patch_mask: np.ndarray  # (patches,) bool, time-major
    groups: tuple[int, ...]  # of the clip itself and those mixed in, of the caption
    seconds: float
    mixed_in: tuple[int, ...] = ()  # rows of the clips that share its scene
    parallel_caption: bool | None = None  # None: not asked for
    source: str = ""
    text: str | None = None  # what the text tower reads; None: the caption


@dataclass(frozen=True)
class SkippedClip:
    """A clip that cannot be trained on, and why."""

    id: str
    reason: str


class PretrainDataset(torch.utils.data.Dataset):
    """The clips of a corpus, as a pure function of (seed, epoch, position, row): workers and ranks change nothing.

    Args:
        corpus: from `load_corpus`.
        feature_extractor: `SlapFeatureExtractor`.
        draw_patch_mask: (columns, rows, ratio, rng) -> (columns * rows,) bool, time-major;
            `hf_slap.objectives.draw_patch_mask`.
        settings: see `ClipSettings`.
        partner_times: (clips,), how often each is mixed into others, relative to the others, as from `clip_times`;
            default: all alike.
    Raises:
        ValueError: a corpus without the columns of `load_corpus`, or without the column to group by.
    """

    def __init__(
        self,
        corpus: Dataset,
        feature_extractor: Any,
        draw_patch_mask: Callable[[int, int, float, np.random.Generator], np.ndarray],
        settings: ClipSettings | None = None,
        partner_times: np.ndarray | None = None,
    ):
        settings = settings or ClipSettings()
        if settings.group_column and settings.group_column not in corpus.column_names:
            raise ValueError(
                f"clips are to be grouped by the column {settings.group_column!r} (group_column), the corpus has "
                f"{corpus.column_names}; name one of these, or null to group clips by their caption"
            )
        if missing := [column for column in ("id", "audio", "captions") if column not in corpus.column_names]:
            raise ValueError(
                f"the corpus has no column {missing}; its columns are {corpus.column_names}; open it with load_corpus"
            )
        self.corpus = corpus
        self.feature_extractor = feature_extractor
        self.draw_patch_mask = draw_patch_mask
        self.settings = settings
        self._partners = None if partner_times is None else np.cumsum(partner_times) / np.sum(partner_times)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_room = settings.cache_mb * 1e6

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, ref: ClipRef) -> TrainingClip | SkippedClip:
        """One clip in one epoch; a clip that cannot be read, or is shorter than one patch, comes as `SkippedClip`."""
        settings, share = self.settings, self.settings.parallel_caption_share
        # A stream for each purpose: switching one off leaves the others as they were.
        seeds = np.random.SeedSequence((settings.seed, ref.epoch, ref.position)).spawn(5)
        caption_rng, sound_rng, stripe_rng, mask_rng, decoding_rng = map(np.random.default_rng, seeds)
        row = self.corpus[ref.index]
        caption = row["captions"][int(caption_rng.integers(len(row["captions"])))]
        try:
            features, caption, mixed_in = self._features(ref.index, row, caption, sound_rng, caption_rng)
            text = caption_rng.choice(["{}", *settings.prompts]).format(caption) if settings.prompts else caption
            columns = len(features) // settings.patch_frames
            if not columns:
                raise AudioError(f"{len(features)} frames; one patch needs {settings.patch_frames}")
        except AudioError as problem:
            return SkippedClip(row["id"], str(problem))

        features = features[: columns * settings.patch_frames]
        rows = features.shape[1] // settings.patch_bins
        augmented = spec_augment(
            features,
            stripe_rng,
            settings.time_masks,
            settings.max_time_mask_frames,
            settings.freq_masks,
            settings.max_freq_mask_bins,
            self.feature_extractor.padding_value,
        )
        return TrainingClip(
            id=row["id"],
            caption=caption,
            text=text,
            features=augmented,
            teacher_features=features,
            patch_mask=self.draw_patch_mask(columns, rows, settings.mask_ratio, mask_rng),
            groups=self._groups([row, *(self.corpus[partner] for partner in mixed_in)], caption),
            seconds=len(features) * self.feature_extractor.hop_length / self.feature_extractor.sampling_rate,
            parallel_caption=bool(decoding_rng.random() < share) if share else None,
            source=row.get("source") or "",
            mixed_in=mixed_in,
        )

    @property
    def silence(self) -> TrainingClip:
        """One patch column of silence, nothing of it masked: stands in for the clips of a batch that are all broken."""
        settings, bins = self.settings, self.feature_extractor.feature_size
        features = np.full((settings.patch_frames, bins), self.feature_extractor.padding_value, dtype=np.float32)
        return TrainingClip(
            id="",
            caption="silence",
            features=features,
            teacher_features=features,
            patch_mask=np.zeros(bins // settings.patch_bins, dtype=bool),
            groups=(0,) * (settings.most_events + 1),
            seconds=0.0,
            parallel_caption=False if settings.parallel_caption_share else None,
        )

    def _features(
        self, index: int, row: dict, caption: str, sound_rng: np.random.Generator, caption_rng: np.random.Generator
    ) -> tuple[np.ndarray, str, tuple[int, ...]]:
        """(T, M) log-mel, the caption of the scene, and the rows of the clips that were mixed in."""
        settings, extractor = self.settings, self.feature_extractor
        longest = int(settings.max_seconds * extractor.sampling_rate)
        if not settings.changes_waveform and index in self._cache and self._cache[index].ndim == 2:
            return self._cache[index], caption, ()
        whole = self._waveform(index, row)
        if not settings.changes_waveform:
            features = extractor.log_mel(random_crop(whole, longest, sound_rng))
            if len(whole) <= longest:
                self._remember(index, features)
            return features, caption, ()

        waveform, mixed_in = self._event(whole, sound_rng), []
        while len(mixed_in) + 1 < settings.max_events and sound_rng.random() < settings.mix_probability:
            second = self._partner(waveform, [index, *mixed_in], sound_rng)
            if second is None:
                break
            waveform, partner, joint = second
            mixed_in.append(partner)
            captions = self.corpus[partner]["captions"]
            caption = joint.format(caption, captions[int(caption_rng.integers(len(captions)))])
        return extractor.log_mel(self._recorded(waveform, sound_rng)), caption, tuple(mixed_in)

    def _event(self, whole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clip, or a part of a long one, at a speed drawn."""
        settings = self.settings
        longest = int(settings.max_seconds * self.feature_extractor.sampling_rate)
        factor = 2.0 ** rng.uniform(-settings.speed_octaves, settings.speed_octaves) if settings.speed_octaves else 1.0
        waveform = random_crop(whole, int(longest * factor), rng)
        changed = change_speed(waveform, factor)[:longest] if settings.speed_octaves else waveform
        # a clip of hardly one patch would be none when played faster
        return changed if len(changed) >= self.feature_extractor.min_samples else waveform

    def _partner(
        self, waveform: np.ndarray, taken: list[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, int, str] | None:
        """The scene with one more clip, its row, and how their captions are joined; None where no clip drawn is a new
        one, readable and short enough."""
        settings, rate = self.settings, self.feature_extractor.sampling_rate
        room = int(settings.max_seconds * rate) - len(waveform)
        in_sequence = bool(settings.sequence_share) and rng.random() < settings.sequence_share and room >= rate // 2
        joints = _IN_SEQUENCE if in_sequence else _TOGETHER
        joint, level_db = joints[int(rng.integers(len(joints)))], settings.mix_level_db
        if self._partners is None:
            drawn = rng.integers(len(self.corpus), size=_PARTNERS_TRIED)
        else:
            drawn = np.searchsorted(self._partners, rng.random(_PARTNERS_TRIED), side="right")
        for partner in drawn.tolist():
            row = self.corpus[partner]
            # twice as long still fits where it is played faster by an octave
            too_long = row.get("duration", 0.0) > 2.0**settings.speed_octaves * len(waveform) / rate
            if partner in taken or (too_long and not in_sequence):
                continue
            try:
                other = self._event(self._waveform(partner, row), rng)
            except AudioError:
                continue  # reported when its own turn comes
            if in_sequence:
                gap = int(rng.integers(0, room // 4, endpoint=True))
                other = random_crop(other, room - gap, rng)
                return append(waveform, other, rng.uniform(-level_db, level_db), gap), partner, joint
            if len(other) <= len(waveform):
                offset = int(rng.integers(0, len(waveform) - len(other), endpoint=True))
                return mix(waveform, other, rng.uniform(-level_db, level_db), offset), partner, joint
        return None

    def _recorded(self, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The scene in a room and through a microphone, both drawn."""
        settings, rate = self.settings, self.feature_extractor.sampling_rate
        if settings.reverb_probability and rng.random() < settings.reverb_probability:
            waveform = reverberate(waveform, rng.uniform(0.1, 1.0), rng.uniform(-20.0, -3.0), rng, rate)
        if settings.equalizer_db:
            gains = rng.uniform(-settings.equalizer_db, settings.equalizer_db, _EQUALIZER_BANDS)
            waveform = equalize(waveform, gains, rate)
        if rng.random() < settings.low_pass_probability:
            waveform = low_pass(waveform, rng.uniform(*settings.low_pass_hz), rate)
        if settings.noise_probability and rng.random() < settings.noise_probability:
            waveform = add_noise(waveform, rng.uniform(*settings.noise_snr_db), rng.uniform(*_NOISE_SLOPES), rng)
        if settings.silence_seconds and rng.random() < 0.5:
            room = int(settings.max_seconds * rate) - len(waveform)
            around = np.minimum(rng.uniform(0.0, settings.silence_seconds, 2) * rate, max(0, room) // 2).astype(int)
            waveform = np.pad(waveform, tuple(around.tolist()))
        if settings.gain_db:
            waveform = apply_gain(waveform, rng.uniform(-settings.gain_db, settings.gain_db))
        return waveform

    def _waveform(self, index: int, row: dict) -> np.ndarray:
        if index in self._cache and self._cache[index].ndim == 1:
            return self._cache[index]
        waveform = self.feature_extractor.load(row["audio"], name=row["id"])
        if (
            self.settings.changes_waveform
            or len(waveform) > self.settings.max_seconds * self.feature_extractor.sampling_rate
        ):
            self._remember(index, waveform)
        return waveform

    def _remember(self, index: int, array: np.ndarray) -> None:
        if array.nbytes <= self._cache_room:
            self._cache[index] = array
            self._cache_room -= array.nbytes

    def _groups(self, rows: list[dict], caption: str) -> tuple[int, ...]:
        """What must not tell two scenes apart: a recording (or its group) in both, or the caption of both."""
        column = self.settings.group_column
        names = [f"group {row[column]}" if column else f"clip {row['id']}" for row in rows]
        names += names[:1] * (self.settings.most_events - len(rows))  # as many for every clip
        return tuple(map(stable_hash, [*names, f"caption {' '.join(caption.lower().split())}"]))


class PretrainCollator:
    """Packs clips into the batch of a training step.

    Args:
        tokenizer: of the text tower; the caption decoder shares it.
        max_text_tokens: longer captions are cut; the labels keep their eos.
        eos_token_id: ends the labels; default: the tokenizer's eos, else its sep.
        stand_in: `PretrainDataset.silence`, for a batch of which no clip can be used: where there are several ranks,
            each must have something to compute. None refuses such a batch.
    Raises:
        ValueError: a tokenizer without padding or without an end.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_text_tokens: int = 128,
        eos_token_id: int | None = None,
        stand_in: TrainingClip | None = None,
    ):
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no pad token; set tokenizer.pad_token (GPT-2: to its eos_token)")
        ends = (eos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
        self.eos_token_id = next((end for end in ends if end is not None), None)
        if self.eos_token_id is None:
            raise ValueError("the tokenizer has neither an eos nor a sep token; pass eos_token_id")
        self.tokenizer = tokenizer
        self.stand_in = stand_in
        self.max_text_tokens = min(max_text_tokens, tokenizer.model_max_length)

    def __call__(self, clips: Sequence[TrainingClip | SkippedClip]) -> dict[str, Any]:
        """Packs the clips that can be trained on.

        Args:
            clips: of one batch, from `PretrainDataset`.
        Returns:
            "input_features" (F, M) float32, SpecAugmented; "teacher_features" (F, M), without; "clip_frames", the
            frames of each clip; "clip_tokens", its patches; "patch_mask" (N,) bool, True is not seen by the student;
            "input_ids" and "attention_mask" (B, L); "labels" (B, L2), the caption then eos, -100 has no loss;
            "caption_parallel" (B,) bool, captions that the decoder writes at once, where `parallel_caption_share` asks;
            "groups" (B, G) int64, of the clip, of those mixed into it and of the caption: clips that have one of them
            in common are not each other's negatives; comparable between ranks;
            "ids"; "sources", "" where the corpus names none; "captions"; "audio_seconds"; "skipped", (id, reason) of
            the clips left out. Where the stand-in is all there is, "groups", "ids", "sources" and "captions" are
            empty, and its mask and labels leave nothing to learn: it has no part in any loss.
        Raises:
            ValueError: not one clip is left, and there is no stand-in.
        """
        skipped = [(clip.id, clip.reason) for clip in clips if isinstance(clip, SkippedClip)]
        clips = [clip for clip in clips if isinstance(clip, TrainingClip)]
        if not clips and self.stand_in is not None:
            batch = self([self.stand_in])
            nobody = {"groups": batch["groups"][:0], "ids": [], "sources": [], "captions": []}
            return {**batch, **nobody, "labels": torch.full_like(batch["labels"], -100), "skipped": skipped}
        if not clips:
            listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:10])
            raise ValueError(
                f"not one of the {len(skipped)} clips of a batch can be used ({listed}); "
                "repair or remove them, or raise batch_seconds"
            )
        captions = [clip.caption for clip in clips]
        at_once = [clip.parallel_caption for clip in clips if clip.parallel_caption is not None]
        texts = self.tokenizer(
            [clip.text or clip.caption for clip in clips],
            padding=True,
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        return {
            "input_features": torch.from_numpy(np.concatenate([clip.features for clip in clips])),
            "teacher_features": torch.from_numpy(np.concatenate([clip.teacher_features for clip in clips])),
            "clip_frames": [len(clip.features) for clip in clips],
            "clip_tokens": [len(clip.patch_mask) for clip in clips],
            "patch_mask": torch.from_numpy(np.concatenate([clip.patch_mask for clip in clips])),
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "labels": self.labels(captions),
            **({"caption_parallel": torch.tensor(at_once)} if at_once else {}),
            "groups": torch.tensor([clip.groups for clip in clips], dtype=torch.int64),
            "ids": [clip.id for clip in clips],
            "sources": [clip.source for clip in clips],
            "captions": captions,
            "audio_seconds": sum(clip.seconds for clip in clips),
            "skipped": skipped,
        }

    def labels(self, captions: list[str]) -> torch.Tensor:
        """(B, L2) int64: the tokens of each caption, eos, then -100."""
        encoded = self.tokenizer(
            captions, add_special_tokens=False, truncation=True, max_length=self.max_text_tokens - 1
        )
        rows = [torch.tensor([*ids, self.eos_token_id]) for ids in encoded["input_ids"]]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
