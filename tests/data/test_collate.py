import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_slap.data import (
    ClipRef,
    ClipSettings,
    PretrainCollator,
    PretrainDataset,
    SkippedClip,
    load_corpus,
    plan_epoch,
    rank_batches,
)
from hf_slap.objectives import draw_patch_mask, same_group

EVERYTHING = {"gain_db": 6.0, "low_pass_probability": 0.5, "mix_probability": 0.5, "low_pass_hz": (2000.0, 7000.0)}


@pytest.fixture
def prepare(corpus, extractor):
    """prepare(corpus=..., **settings) gives the dataset."""

    def make(ours=corpus, **settings):
        return PretrainDataset(ours, extractor, draw_patch_mask, ClipSettings(**settings))

    return make


@pytest.fixture
def collate(tokenizer):
    return PretrainCollator(tokenizer)


def refs(corpus, epoch=0):
    return [ClipRef(epoch, position, position) for position in range(len(corpus))]


def test_the_share_of_captions_written_at_once_changes_nothing_else(prepare, collate, corpus):
    plain, mixed = ([prepare(parallel_caption_share=share)[r] for r in refs(corpus)] for share in (0.0, 0.75))
    assert same(by_id(collate(plain)), by_id(collate(mixed)))
    assert "caption_parallel" not in collate(plain)
    drawn = [prepare(parallel_caption_share=0.75)[r].parallel_caption for e in range(20) for r in refs(corpus, e)]
    assert collate(mixed)["caption_parallel"].tolist() == drawn[: len(corpus)], "a function of epoch and position"
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.1)


def by_id(batch: dict) -> dict[str, list]:
    """What the batch says about each clip: features, teacher's features, mask, caption, group."""
    frames, patches = batch["clip_frames"], batch["clip_tokens"]
    columns = zip(
        batch["input_features"].split(frames),
        batch["teacher_features"].split(frames),
        batch["patch_mask"].split(patches),
        batch["captions"],
        batch["groups"].tolist(),
        strict=True,
    )
    return dict(zip(batch["ids"], map(list, columns), strict=True))


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# ---------------------------------------------------------------------------------------------------- what a batch is
def test_a_batch_is_packed_and_its_parts_belong_together(prepare, collate, corpus, extractor):
    dataset = prepare()
    batch = collate([dataset[ref] for ref in refs(corpus)])
    frames = batch["clip_frames"]
    assert all(count % 16 == 0 and count > 0 for count in frames)
    assert batch["input_features"].shape == batch["teacher_features"].shape == (sum(frames), 64)
    assert batch["clip_tokens"] == [count // 16 * 4 for count in frames]
    assert batch["patch_mask"].shape == (sum(frames) // 4,) and batch["patch_mask"].dtype == torch.bool
    assert batch["patch_mask"].float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert batch["groups"].shape == (13, 2) and batch["groups"].dtype == torch.int64
    assert batch["ids"] == corpus["id"][:]
    assert batch["audio_seconds"] == pytest.approx(sum(frames) / 100)
    assert batch["skipped"] == []
    lost = np.array([1 + int(seconds * 16_000) // 160 for seconds in corpus["duration"]]) - np.array(frames)
    assert ((lost >= 0) & (lost < 17)).all()


def test_the_teacher_hears_the_clip_itself_and_the_student_a_striped_copy(prepare, corpus, extractor):
    for ref in refs(corpus):
        clip = prepare()[ref]
        whole = extractor.log_mel(extractor.load(corpus[ref.index]["audio"]))
        assert np.array_equal(clip.teacher_features, whole[: len(clip.teacher_features)])
        changed = clip.features != clip.teacher_features
        assert not clip.features[changed].any()
        assert changed.mean() < 0.75
    unchanged = prepare(time_masks=0, freq_masks=0)[ClipRef(0, 0, 0)]
    assert np.array_equal(unchanged.features, unchanged.teacher_features)


def test_labels_are_the_caption_then_eos_and_text_has_its_special_tokens(prepare, collate, corpus, tokenizer):
    batch = collate([prepare()[ref] for ref in refs(corpus)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    for caption, labels, ids, mask in zip(
        batch["captions"], batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        words = labels[labels != -100].tolist()
        assert words == [*tokenizer(caption, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert (labels[len(words) :] == -100).all()
        assert ids[mask.bool()].tolist() == tokenizer(caption)["input_ids"]
    assert (batch["labels"][:, -1] != -100).any()


def test_a_caption_that_is_too_long_keeps_its_eos(prepare, corpus, tokenizer):
    batch = PretrainCollator(tokenizer, max_text_tokens=3)([prepare()[ref] for ref in refs(corpus)])
    assert batch["input_ids"].shape == (13, 3) and batch["labels"].shape == (13, 3)
    assert (batch["labels"][:, 2] == tokenizer.eos_token_id).all()
    assert (batch["input_ids"][:, 2] == tokenizer.sep_token_id).all()


def test_an_end_of_text_of_ones_own(prepare, tokenizer, corpus):
    clips = [prepare()[ref] for ref in refs(corpus)]
    labels = PretrainCollator(tokenizer, eos_token_id=77)(clips)["labels"]
    assert all(row[row != -100][-1] == 77 for row in labels)


# --------------------------------------------------------------------------------------------- chance comes from a seed
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "augmented"])
def test_the_ranks_together_see_what_one_rank_sees(prepare, collate, corpus, world, settings):
    durations = corpus["duration"][:]
    plan = list(plan_epoch(durations, 3.0, seed=5, epoch=1, min_clips=4))
    dataset = prepare(seed=5, **settings)
    assert len(plan) > 1
    for step, batch in enumerate(rank_batches(plan, durations, 1)):
        alone = by_id(collate([dataset[ref] for ref in batch]))
        parts = [list(rank_batches(plan, durations, 1, rank, world))[step] for rank in range(world)]
        together = {}
        for part in parts:
            together |= by_id(collate([dataset[ref] for ref in part]))
        assert same({name: together[name] for name in alone}, alone) and len(together) == len(alone)


@pytest.mark.parametrize("settings", [{}, {**EVERYTHING, "cache_mb": 5.0}], ids=["plain", "augmented"])
def test_two_workers_give_the_batches_of_none(prepare, collate, corpus, settings):
    durations = corpus["duration"][:]
    batches = list(rank_batches(plan_epoch(durations, 2.0, seed=5, epoch=0), durations, 0))
    assert len(batches) > 2
    none, two = (
        list(DataLoader(prepare(**settings), batch_sampler=batches, collate_fn=collate, num_workers=workers))
        for workers in (0, 2)
    )
    assert same(none, two)


def test_epochs_positions_and_seeds_draw_anew(prepare, corpus):
    def drawn(dataset, epoch=0, position=3):
        return dataset[ClipRef(epoch, position, 0)].patch_mask.tolist()

    first = drawn(prepare())
    assert first == drawn(prepare())
    assert first != drawn(prepare(), epoch=1)
    assert first != drawn(prepare(), position=4)
    assert first != drawn(prepare(seed=1))
    captions = {prepare()[ClipRef(epoch, 0, 0)].caption for epoch in range(40)}
    assert captions == set(corpus[0]["captions"])


def test_switching_an_augmentation_on_leaves_the_other_draws_as_they_were(prepare):
    plain, loud = prepare()[ClipRef(0, 1, 2)], prepare(gain_db=6.0)[ClipRef(0, 1, 2)]
    assert (plain.caption, plain.patch_mask.tolist()) == (loud.caption, loud.patch_mask.tolist())
    assert np.array_equal(plain.features == 0, loud.features == 0)
    assert not np.array_equal(plain.teacher_features, loud.teacher_features)


@pytest.mark.parametrize("settings", [{}, EVERYTHING, {"max_seconds": 0.4}], ids=["plain", "augmented", "cropped"])
@pytest.mark.parametrize("cache_mb", [0.2, 50.0])
def test_a_cache_large_or_small_changes_nothing(prepare, collate, corpus, settings, cache_mb):
    fresh, cached = prepare(**settings), prepare(cache_mb=cache_mb, **settings)
    for epoch in range(3):
        assert same(
            collate([fresh[ref] for ref in refs(corpus, epoch)]), collate([cached[ref] for ref in refs(corpus, epoch)])
        )
    held = sum(array.nbytes for array in cached._cache.values())
    assert 0 < held <= cache_mb * 1e6


def test_a_full_cache_decodes_every_clip_once(prepare, corpus, monkeypatch, extractor):
    decoded = []
    load = type(extractor).load

    def counted(self, *arguments, **keywords):
        decoded.append(keywords["name"])
        return load(self, *arguments, **keywords)

    monkeypatch.setattr(type(extractor), "load", counted)
    dataset = prepare(cache_mb=50.0)
    for epoch in range(2):
        [dataset[ref] for ref in refs(corpus, epoch)]
    assert sorted(decoded) == sorted(corpus["id"])


# --------------------------------------------------------------------------------------------------------- augmentation
def test_a_long_clip_is_cropped_from_another_place_each_epoch(prepare, corpus):
    dataset = prepare(max_seconds=0.25, time_masks=0, freq_masks=0)
    crops = [dataset[ClipRef(epoch, 0, 0)].features for epoch in range(4)]
    assert all(crop.shape == (16, 64) for crop in crops)
    assert len({crop.tobytes() for crop in crops}) > 1


def test_a_mixed_clip_carries_both_captions_and_the_length_of_the_first(prepare, corpus):
    plain, mixed = prepare(), prepare(mix_probability=1.0)
    pairs = [(plain[ref], mixed[ref]) for ref in refs(corpus)]
    changed = [(before, after) for before, after in pairs if before.caption != after.caption]
    assert len(changed) > 6
    others = {caption for captions in corpus["captions"] for caption in captions}
    for before, after in changed:
        assert after.caption.startswith(f"{before.caption} and ")
        assert after.caption.removeprefix(f"{before.caption} and ") in others
        assert after.features.shape == before.features.shape
        assert not np.array_equal(after.teacher_features, before.teacher_features)
    for before, after in pairs:
        if before.caption == after.caption:  # the shortest clip finds none that fits
            assert np.array_equal(before.teacher_features, after.teacher_features)


def test_clips_of_a_scene_come_one_after_the_other_and_their_captions_too(prepare, corpus):
    plain = prepare()
    scenes = prepare(mix_probability=1.0, sequence_share=1.0, max_events=3, max_seconds=20.0)
    pairs = [(plain[ref], scenes[ref]) for ref in refs(corpus)]
    for before, after in pairs:
        assert 1 <= len(after.mixed_in) <= 2 and after.seconds >= before.seconds + 0.2 * len(after.mixed_in)
        assert after.caption.startswith(before.caption)
        assert after.caption.count(", then ") + after.caption.count(", followed by ") == len(after.mixed_in)
    assert {len(after.mixed_in) for _, after in pairs} >= {2}
    short = prepare(mix_probability=1.0, sequence_share=1.0, max_seconds=3.0)
    assert all(short[ref].seconds <= 3.0 for ref in refs(corpus))


def test_every_change_of_the_sound_is_drawn_anew_each_epoch_and_is_the_same_for_all_who_draw_it(prepare):
    for change in (
        {"speed_octaves": 0.5},
        {"reverb_probability": 1.0},
        {"equalizer_db": 10.0},
        {"noise_probability": 1.0},
        {"silence_seconds": 1.0},
    ):
        one, two = prepare(**change), prepare(**change)
        drawn = [one[ClipRef(epoch, 0, 0)].features.tobytes() for epoch in range(6)]
        assert len(set(drawn)) > 3, change
        assert drawn == [two[ClipRef(epoch, 0, 0)].features.tobytes() for epoch in range(6)], change


def test_partners_are_drawn_as_often_as_told(corpus, extractor):
    settings = ClipSettings(mix_probability=1.0, sequence_share=1.0)
    times = np.zeros(len(corpus))
    times[4] = 1.0
    clips = PretrainDataset(corpus, extractor, draw_patch_mask, settings, times)
    assert {clips[ref].mixed_in for ref in refs(corpus) if ref.index != 4} == {(4,)}


def test_a_low_pass_empties_the_highest_bins(prepare):
    muffled = prepare(low_pass_probability=1.0, low_pass_hz=(1000.0, 1000.0))[ClipRef(0, 0, 0)].teacher_features
    plain = prepare()[ClipRef(0, 0, 0)].teacher_features
    assert muffled[:, -20:].mean() < plain[:, -20:].mean() - 0.5
    assert muffled[:, :10] == pytest.approx(plain[:, :10], abs=0.05)


# --------------------------------------------------------------------------------------------------------------- groups
def groups(dataset, corpus, collate):
    return collate([dataset[ref] for ref in refs(corpus)])["groups"].tolist()


def test_clips_with_one_caption_are_one_group_whatever_its_case(wav, prepare, collate):
    ours = load_corpus(
        Dataset.from_dict(
            {
                "audio": [{"bytes": wav(0.5, seed), "path": None} for seed in range(4)],
                "text": ["a dog", "A  dog", "a cat", "a cow"],
                "kind": ["pet", "pet", "pet", "cattle"],
            }
        )
    )
    clips, captions = zip(*groups(prepare(ours), ours, collate), strict=True)
    first, second, third, fourth = captions
    assert first == second and len({first, third, fourth}) == 3 and len(set(clips)) == 4
    kinds, captions = zip(*groups(prepare(ours, group_column="kind"), ours, collate), strict=True)
    assert len(set(kinds[:3])) == 1 and kinds[3] not in kinds[:3] and len(set(captions)) == 3


def test_prompts_are_for_the_text_tower_alone(prepare, collate, corpus, tokenizer):
    prompts = ("the sound of {}", "{} can be heard")
    plain, wrapped = (collate([prepare(prompts=p)[ref] for ref in refs(corpus)]) for p in ((), prompts))
    assert wrapped["captions"] == plain["captions"] and torch.equal(wrapped["labels"], plain["labels"])
    assert torch.equal(wrapped["groups"], plain["groups"])
    read = tokenizer.batch_decode(wrapped["input_ids"], skip_special_tokens=True)
    alone = tokenizer.batch_decode(plain["input_ids"], skip_special_tokens=True)
    forms = [[p.format(caption) for p in ("{}", *prompts)] for caption in alone]
    assert all(text in one for text, one in zip(read, forms, strict=True))
    assert {one.index(text) for text, one in zip(read, forms, strict=True)} == {0, 1, 2}
    for wrong in ("the sound of {}", ["no place"]):
        with pytest.raises(ValueError, match="expected a list of texts with {}"):
            ClipSettings(prompts=wrong)


def test_a_scene_is_of_the_groups_of_all_that_is_heard_in_it(wav, prepare, collate):
    texts = ["a dog", "a cat", "a cow", "a cock", "a hen"]
    audio = [{"bytes": wav(0.5, seed), "path": None} for seed in range(5)]
    ours = load_corpus(Dataset.from_dict({"audio": audio, "text": texts}))
    settings = {"mix_probability": 0.6, "max_events": 3, "sequence_share": 1.0}
    alone = {text: row[0] for text, row in zip(texts, groups(prepare(ours), ours, collate), strict=True)}
    batch = collate([prepare(ours, **settings)[ref] for ref in refs(ours)])
    heard = [{alone[text] for text in texts if text in caption} for caption in batch["captions"]]
    assert batch["groups"].shape == (5, 4) and {len(one) for one in heard} >= {1, 2}
    assert [set(row[:3]) for row in batch["groups"].tolist()] == heard
    expected = torch.tensor([[bool(one & other) for other in heard] for one in heard])
    assert torch.equal(same_group(batch["groups"], batch["groups"]), expected) and not expected.all()


def test_rows_of_one_clip_are_one_group(wav, prepare, collate):
    audio = [{"bytes": wav(0.5, seed), "path": None} for seed in (0, 0, 1)]
    ours = load_corpus(
        Dataset.from_dict({"audio": audio, "text": ["a dog", "barking", "A dog"], "id": ["x", "x", "y"]})
    )
    clips, captions = zip(*groups(prepare(ours), ours, collate), strict=True)
    assert clips[0] == clips[1] != clips[2]
    assert captions[0] == captions[2] != captions[1], "as a caption of one clip may be another's too"


def test_group_numbers_are_the_same_in_every_process():
    from hf_slap.data.collate import stable_hash

    assert stable_hash("caption a dog") == -7_542_931_865_036_411_748  # worked out once with hashlib alone


# --------------------------------------------------------------------------------------------------------- broken clips
@pytest.fixture
def with_broken(clips):
    """The clips with the second broken off in its header and the fourth empty; given durations keep both in."""
    rows = [dict(row) for row in clips]
    rows[1]["audio"] = {"bytes": rows[1]["audio"]["bytes"][:40], "path": None}
    rows[3]["audio"] = {"bytes": rows[3]["audio"]["bytes"][:0], "path": None}
    return load_corpus(Dataset.from_list(rows))


def test_broken_clips_are_left_out_and_listed_and_the_others_do_not_move(prepare, collate, corpus, with_broken, clips):
    whole = by_id(collate([prepare()[ref] for ref in refs(corpus)]))
    for workers in (0, 2):
        loader = DataLoader(
            prepare(with_broken), batch_sampler=[refs(with_broken)], collate_fn=collate, num_workers=workers
        )
        (batch,) = loader
        assert [name for name, _ in batch["skipped"]] == [clips[1]["id"], clips[3]["id"]]
        assert all(reason for _, reason in batch["skipped"])
        assert len(batch["ids"]) == len(batch["labels"]) == 11
        assert same(by_id(batch), {name: whole[name] for name in batch["ids"]})


def test_a_clip_shorter_than_a_patch_is_left_out_and_says_so(wav, prepare):
    ours = load_corpus(Dataset.from_dict({"audio": [{"bytes": wav(0.05), "path": None}], "text": ["a click"]}))
    clip = prepare(ours)[ClipRef(0, 0, 0)]
    assert isinstance(clip, SkippedClip) and clip.id == "0"
    assert "0.05" in clip.reason or "frames" in clip.reason


def test_a_clip_of_just_one_patch_is_not_played_so_fast_that_none_is_left(wav, prepare, extractor):
    seconds = 1.6 * extractor.min_samples / 16_000
    ours = load_corpus(Dataset.from_dict({"audio": [{"bytes": wav(seconds), "path": None}], "text": ["a click"]}))
    drawn = [prepare(ours, speed_octaves=1.0)[ClipRef(epoch, 0, 0)] for epoch in range(12)]
    assert {len(clip.features) for clip in drawn} == {16, 32}, "slower ones have room for a second patch"


def test_a_broken_partner_is_not_mixed_in(prepare, with_broken):
    clips = [prepare(with_broken, mix_probability=1.0)[ClipRef(epoch, 0, 0)] for epoch in range(8)]
    assert not any(isinstance(clip, SkippedClip) for clip in clips)


def test_a_batch_of_broken_clips_alone_is_refused(prepare, collate, with_broken, clips):
    dataset = prepare(with_broken)
    with pytest.raises(ValueError, match=rf"not one of the 2 clips of a batch can be used \({clips[1]['id']}: "):
        collate([dataset[ClipRef(0, 0, 1)], dataset[ClipRef(0, 1, 3)]])


def test_with_a_stand_in_such_a_batch_is_silence_that_no_loss_counts(prepare, tokenizer, with_broken, clips):
    dataset = prepare(with_broken)
    collate = PretrainCollator(tokenizer, stand_in=dataset.silence)
    batch = collate([dataset[ClipRef(0, 0, 1)], dataset[ClipRef(0, 1, 3)]])
    assert [name for name, _ in batch["skipped"]] == [clips[1]["id"], clips[3]["id"]]
    assert batch["ids"] == batch["captions"] == batch["sources"] == [] and batch["groups"].shape == (0, 2)
    assert batch["audio_seconds"] == 0 and (batch["labels"] == -100).all() and not batch["patch_mask"].any()
    assert batch["clip_frames"] == [16] and batch["input_features"].shape == (16, 64) and len(batch["input_ids"]) == 1
    mixed = [dataset[ClipRef(0, 0, 0)], dataset[ClipRef(0, 1, 1)]]
    assert same(collate(mixed), PretrainCollator(tokenizer)(mixed)), "where a clip is left, there is no silence"


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix_probability": 1.5}, "mix_probability is 1.5; a probability"),
        ({"gain_db": -1.0}, "gain_db is -1.0; it must not be negative"),
        ({"low_pass_hz": (3000.0, 1000.0)}, "expected \\(lowest, highest\\)"),
        ({"max_seconds": 0.1}, "at least one patch"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(**settings)


def test_a_corpus_or_tokenizer_that_lacks_something_is_refused(corpus, prepare, tokenizer):
    with pytest.raises(ValueError, match=r"no column \['captions'\]; its columns .* open it with load_corpus"):
        prepare(corpus.remove_columns("captions"))
    with pytest.raises(ValueError, match=r"grouped by the column 'genre' .* null to group"):
        prepare(corpus, group_column="genre")

    class Silent:
        pad_token_id, eos_token_id, sep_token_id, model_max_length = None, None, None, 11

    with pytest.raises(ValueError, match="no pad token"):
        PretrainCollator(Silent())
    Silent.pad_token_id = 0
    with pytest.raises(ValueError, match="neither an eos nor a sep token"):
        PretrainCollator(Silent())
