"""The 26 tasks of MS-CLAP 2023 (arXiv 2309.05767, Table 2) with their metrics. `reported` are its numbers.

It states the metrics, and the prompt of ESC-50; the 2022 paper those of emotions, keywords and counting. The others
are its general one. Its clips are random crops of 7 s; here they are heard in full.
"""

from ..tasks import Task

_GENERAL = ("this is a sound of {}",)
_FEELING = ("this person is feeling {}",)
CREMA_D_WORDS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_STATED = "MS-CLAP 2023, Table 2"
_ASSUMED = "MS-CLAP 2023, Table 2; prompt not stated: its general one"
_OF_2022 = "MS-CLAP 2023, Table 2; prompt of the 2022 paper"
_HUMAN = (  # the category "human, non-speech sounds" of ESC-50
    "crying_baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing", "brushing_teeth",
    "snoring", "drinking_sipping",
)  # fmt: skip
_KEYS = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B")
_PITCHES = {f"{pitch:03d}": f"{_KEYS[pitch % 12]}{pitch // 12 - 1}" for pitch in range(128)}


def _task(name: str, data: str, metric: str, reported: float, source: str = _ASSUMED, **more) -> Task:
    return Task(
        f"clap-{name}", "zero_shot", data, metric, source, prompts=more.pop("prompts", _GENERAL),
        multi_label=more.pop("multi_label", metric == "mAP"), reported={"MS-CLAP 2023": reported}, **more,
    )  # fmt: skip


def _retrieval(data: str, way: str, expected: int | None, recall: float, average: float) -> Task:
    return Task(
        f"clap-{data}-{way.replace('_', '-')}", "retrieval", data, "recall@1", _STATED, way=way, expected=expected,
        reported={"MS-CLAP 2023, R@1": recall, "MS-CLAP 2023, mAP@10": average},
    )  # fmt: skip


def _captioning(data: str, expected: int | None, reported: float) -> Task:
    return Task(
        f"clap-{data}-captioning", "captioning", data, "SPIDEr", f"{_STATED}; its captioner is trained beside a frozen "
        "model", expected=expected, reported={"MS-CLAP 2023, SPIDEr": reported},
    )  # fmt: skip


TASKS = (
    _task("esc50", "esc50", "accuracy", 0.939, _STATED, prompts=("this is the sound of {}",), expected=2000),
    _task("fsd50k", "fsd50k", "mAP", 0.485, expected=10_231),
    _task("urbansound8k", "urbansound8k", "accuracy", 0.823, expected=8732),
    _task(
        "dcase2017", "dcase2017", "F1", 0.466, _ASSUMED + "; how F1 is cut not stated: the highest-scoring label",
        multi_label=True,
    ),
    _task("audioset", "audioset", "mAP", 0.102),
    _task("vocalsound", "vocalsound", "accuracy", 0.80),
    _task("sesa", "sesa", "accuracy", 0.65),
    _task(
        "esc50-actions", "esc50", "mAP", 0.509, _ASSUMED + "; clips not stated: the 10 human sounds of ESC-50",
        only=_HUMAN, expected=400,
    ),
    _task("tut2017", "tut2017", "accuracy", 0.538),
    _task("gtzan-music-speech", "gtzan_music_speech", "accuracy", 0.992, expected=128),
    _task("gtzan-genres", "gtzan", "accuracy", 0.584, expected=1000),
    _task(
        "nsynth-pitch", "nsynth", "accuracy", 0.444, label_pattern=r"_\d+-(\d{3})-\d{3}$", words=_PITCHES,
        expected=4096,
    ),
    _task("nsynth-velocity", "nsynth", "accuracy", 0.222, label_pattern=r"_\d+-\d{3}-(\d{3})$", expected=4096),
    _task("nsynth-qualities", "nsynth", "mAP", 0.489, skip_labels=2),
    _task(
        "nsynth-instrument-family", "nsynth", "accuracy", 0.479, expected=4096,
        label_pattern=r"(?:^|/)([a-z_]+?)_(?:acoustic|electronic|synthetic)_\d+-",
    ),
    _task("beijing-opera", "beijing_opera", "accuracy", 0.466, expected=236),
    _task("crema-d", "crema_d", "accuracy", 0.30, _OF_2022, prompts=_FEELING, words=CREMA_D_WORDS, expected=7442),
    _task("ravdess", "ravdess", "accuracy", 0.315, _OF_2022, prompts=_FEELING),
    _task("speech-commands", "speech_commands", "accuracy", 0.164, _OF_2022, prompts=("{}",)),
    _task(
        "libricount", "libricount", "accuracy", 0.246, _OF_2022, prompts=("{} persons speaking",), expected=5720,
    ),
    _captioning("audiocaps", None, 0.455),
    _captioning("clotho", 1045, 0.271),
    _retrieval("audiocaps", "audio_to_text", None, 0.425, 0.319),
    _retrieval("clotho", "audio_to_text", 1045, 0.229, 0.155),
    _retrieval("audiocaps", "text_to_audio", None, 0.356, 0.51),
    _retrieval("clotho", "text_to_audio", 1045, 0.157, 0.257),
)  # fmt: skip
