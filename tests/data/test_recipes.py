"""Every recipe on a miniature copy of its source: real layout and columns, real quirks, sound of the shipped corpus."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_slap.data.recipes import ACCESS, CLAP_2023, RECIPES, get_recipe, names, readme_table
from hf_slap.data.recipes.base import is_free, seconds, spdx
from hf_slap.data.recipes.captions import readable, template
from hf_slap.data.records import DOMAINS, PROVENANCES, RecordError, validate

README = Path(__file__).parents[2] / "README.md"
IN_PARQUET = "IN_PARQUET"  # stands for the bytes of a clip in a table
V1, V2, V3 = "-0SdAVK79lg", "Yb0RFKhbpFJ", "3dE2rX_iQ-4"  # as long as video ids are, one begins with '-', one with Y

# recipe: (files with their text, rows or JSON; sound files; what becomes of it: key, source id, split, licence, captions;
# keys that have no sound file or no caption). A segment or cut is tested below.
SOURCES = {
    "audiocaps": (
        {
            "train.csv": f"audiocap_id,youtube_id,start_time,caption\n7,{V1},30,Constant rattling\n8,{V2},0,Rain\n",
            "val.csv": f"audiocap_id,youtube_id,start_time,caption\n1,{V3},20,A man speaks\n2,{V3},20,Someone talks\n",
        },
        [f"audio/{V1}_30.wav", f"audio/val/Y{V3}.flac"],
        [
            (f"{V1}_30", f"youtube:{V1}", "train", "unknown", ["Constant rattling"]),
            (f"{V3}_20", f"youtube:{V3}", "validation", "unknown", ["A man speaks", "Someone talks"]),
        ],
        [f"{V2}_0"],
    ),
    "clotho": (
        {
            "clotho_captions_development.csv": "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
            'Rain.wav,"It rains, hard.",b,c,d,e\nGone.wav,a,b,c,d,e\n',
            # its metadata are not UTF-8, and some sounds are not known any more
            "clotho_metadata_development.csv": "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
            "Rain.wav,rain;caf\xe9,1234,https://freesound.org/s,\"[44100, 88200]\",someone,"
            "http://creativecommons.org/licenses/by/3.0/\n".encode("latin-1"),
            "clotho_captions_evaluation.csv": "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\nOld.wav,v,w,x,y,z\n",
            "clotho_metadata_evaluation.csv": "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
            "Old.wav,old,Not found,Not found,,Not found,Not found\n",
        },
        ["development/Rain.wav", "evaluation/Old.wav"],
        [
            ("development/Rain.wav", "freesound:1234", "train", "CC-BY-3.0", ["It rains, hard.", "b", "c", "d", "e"]),
            ("evaluation/Old.wav", "clotho:evaluation/Old.wav", "test", "unknown", ["v", "w", "x", "y", "z"]),
        ],
        ["development/Gone.wav"],
    ),
    **{
        f"wavcaps_{name}": (
            {
                f"json_files/{part}/{file}": {
                    "num_captions_per_audio": 1,
                    "data": [
                        {"id": given, "caption": "Rain falls.", "audio": "wav_path", "duration": 10.0, **more},
                        {"id": "Y" + V3, "caption": "Gone.", "audio": "wav_path", "duration": 1.0},
                    ],
                }
            },
            [f"{place}/{key}.flac"],
            [(key, source_id, "train", "LicenseRef-WavCaps (academic use only)", ["Rain falls."])],
            ["Y" + V3],
        )
        for name, part, file, given, key, source_id, place, more in (
            ("audioset", "AudioSet_SL", "as_final.json", f"Y{V1}.wav", f"Y{V1}", f"youtube:{V1}", "Audio/AudioSet_SL", {}),
            ("bbc", "BBC_Sound_Effects", "bbc_final.json", "NHU05104142", "NHU05104142", "bbc:nhu05104142",
             "audio/BBC_Sound_Effects", {"category": "Nature", "download_link": "https://"}),
            ("freesound", "FreeSound", "fsd_final.json", "601439", "601439", "freesound:601439", "FreeSound",
             {"file_name": "rain.wav", "tags": [], "author": "someone", "href": "/people/"}),
            ("soundbible", "SoundBible", "sb_final.json", "2219", "2219", "soundbible:2219", "SoundBible_flac",
             {"title": "Rain", "description": "Rain. Great sound."}),
        )
    },
    "audiosetcaps": (
        {
            "Dataset/AudioSetCaps_caption.csv": f"id,caption\nY{V1},A bell tolls.\nY{V3},Gone.\n",
            "Dataset/VGGSound_AudioSetCaps_caption.csv": f'id,caption\n{V2}_000088,"A dog, barking."\n',
            "Dataset/YouTube-8M_AudioSetCaps_caption.csv": f"id,caption\n{V3}_84_10,A song.\n",
        },
        [f"audio/Y{V1}.wav", f"audio/{V2}_000088.wav", f"audio/YouTube-8M/{V3}_84.mp3"],
        [
            (f"Y{V1}", f"youtube:{V1}", "train", "unknown", ["A bell tolls."]),
            (f"{V2}_000088", f"youtube:{V2}", "train", "unknown", ["A dog, barking."]),
            (f"{V3}_84_10", f"youtube:{V3}", "train", "unknown", ["A song."]),
        ],
        ["Y" + V3],
    ),
    "auto_acd": (
        {"train.csv": f"youtube_id,caption\n{V1},A bell in a church.\n{V2},Gone.\n"},
        [f"audio/{V1}.flac"],
        [(V1, f"youtube:{V1}", "train", "unknown", ["A bell in a church."])],
        [V2],
    ),
    "fusionaudio": (
        {"caption.json": [{"audio_id": f"wavs/{V1}.wav", "caption": "Long."}, {"audio_id": V2, "caption": "Gone."}]},
        [f"audio/{V1}.wav"],
        [(V1, f"youtube:{V1}", "train", "unknown", ["Long."])],
        [V2],
    ),
    "vggsound": (
        {"vggsound.csv": f'{V1},30,"playing badminton",test\n{V2},1,"people crowd, singing",train\n'},
        [f"audio/{V1}_000030.wav"],
        [(f"{V1}_30", f"youtube:{V1}", "test", "unknown", ["a recording of playing badminton"])],
        [f"{V2}_1"],
    ),
    "audioset": (
        {
            "balanced_train_segments.csv": "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2, num_segs=2\n"
            "# YTID, start_seconds, end_seconds, positive_labels\n"
            f'{V1}, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n{V2}, 0.000, 10.000, "/m/09x0r"\n',
            "eval_segments.csv": "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"
            f'{V3}, 20.000, 29.500, "/m/09x0r"\n',
            "ontology.json": [
                {"id": "/m/09x0r", "name": "Speech", "description": "", "child_ids": []},
                {"id": "/t/dd00088", "name": "Gush", "description": "", "child_ids": []},
            ],
        },
        [f"audio/balanced_train_segments/{V1}_30.000.flac", f"audio/{V3}_20000_29000.wav"],
        [
            (f"{V1}_30", f"youtube:{V1}", "train", "unknown", ["the sound of speech and gush"]),
            (f"{V3}_20", f"youtube:{V3}", "test", "unknown", ["the sound of speech"]),
        ],
        [f"{V2}_0"],
    ),
    "fsd50k": (
        {
            "FSD50K.ground_truth/dev.csv": "fname,labels,mids,split\n"
            '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n1,Purr,/m/02yds9,val\n',
            "FSD50K.ground_truth/eval.csv": 'fname,labels,mids\n37199,"Wind_instrument_and_woodwind_instrument","/m/085jw"\n',
            "FSD50K.metadata/collection/collection_dev.csv": "fname,labels,mids\n64760,Electric_guitar,/m/02sgy\n",
            "FSD50K.metadata/dev_clips_info_FSD50K.json": {
                "64760": {"title": "g", "license": "http://creativecommons.org/licenses/by-nc/3.0/", "uploader": "x"}
            },
            "FSD50K.metadata/eval_clips_info_FSD50K.json": {
                "37199": {"title": "w", "license": "http://creativecommons.org/publicdomain/zero/1.0/", "uploader": "x"}
            },
        },
        ["FSD50K.dev_audio/64760.wav", "FSD50K.eval_audio/37199.wav"],
        [
            ("64760", "freesound:64760", "train", "CC-BY-NC-3.0", ["electric guitar"]),
            ("37199", "freesound:37199", "test", "CC0-1.0", ["a recording of wind instrument and woodwind instrument"]),
        ],
        ["1"],
    ),
    "macs": (
        {
            "MACS.yaml": "files:\n- filename: airport-barcelona-0-0-a.wav\n  annotations:\n"
            "  - annotator_id: 50\n    sentence: people talk\n    tags: [adults_talking]\n"
            "  - annotator_id: 75\n    sentence: footsteps\n    tags: [footsteps, adults_talking]\n"
            "- filename: park-lyon-1-1-a.wav\n  annotations:\n"
            "  - annotator_id: 1\n    sentence: birds\n    tags: [birds_singing]\n",
        },
        ["TAU-urban-acoustic-scenes-2019-development/audio/airport-barcelona-0-0-a.wav"],
        [
            ("airport-barcelona-0-0-a.wav", "tau-urban-2019:airport-barcelona-0-0-a", "train",
             "LicenseRef-TAU (non-commercial)", ["people talk", "footsteps"]),
        ],
        ["park-lyon-1-1-a.wav"],
    ),
    "sounddescs": (
        {
            "descriptions.json": {"nhu05104142": "Common frog - croaks.", "07005204": "Gone."},
            "train_list.txt": "07005204\n",
            "test_list.txt": "nhu05104142\n",
        },
        ["audios/nhu05104142/nhu05104142.wav"],
        [
            ("nhu05104142", "bbc:nhu05104142", "test", "LicenseRef-RemArc (BBC: personal, education and research)",
             ["Common frog - croaks."]),
        ],
        ["07005204"],
    ),
    "wavtext5k": (
        {
            "WavText5K.csv": "view_link,download_link,title,description,fname,tags\n"
            'https://bigsoundbank.com/detail-0100-forest.html,https://,Forest,"Birds, cars.",0100.wav,\n'
            "https://soundbible.com/1487-Eaglet-Bird-2.html,https://,Eaglet Bird 2, An eaglet.,eaglet bird 2_708.wav,"
            "\"['eagle', 'eagle', 'bird call']\"\n"
            "https://soundbible.com/1-Gone.html,https://,Gone,,gone_1.wav,\n",
        },
        ["audio/0100.wav", "download/eaglet bird 2_708.wav"],
        [
            ("0100", "bigsoundbank:0100", "train", "unknown", ["Forest", "Birds, cars."]),
            ("eaglet bird 2_708", "soundbible:1487", "train", "unknown", ["Eaglet Bird 2", "An eaglet."]),
        ],
        ["gone_1"],
    ),
    "cochlscene": (
        {},
        ["CochlScene/Train/Bus/Bus_user0123_14876323_001.wav", "CochlScene/Test/x/ResidentialArea_user0033_14818437_001.wav"],
        [
            ("Bus_user0123_14876323_001", "cochlscene:Bus_user0123_14876323_001", "train", "unknown", ["sounds recorded in a bus"]),
            ("ResidentialArea_user0033_14818437_001", "cochlscene:ResidentialArea_user0033_14818437_001", "test", "unknown",
             ["the atmosphere in a residential area"]),
        ],
        [],
    ),
    "epic_sounds": (
        {
            "EPIC_Sounds_train.csv": "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,"
            "stop_sample,description,class,class_id\n"
            "P01_01_0,P01,P01_01,00:00:00.250,00:01:05.315,59184,127560,paper rustle,rustle,4\n"
            "P02_01_0,P02,P02_01,00:00:02.466,00:00:05.315,59184,127560,tap,metal-only collision,4\n",
        },
        ["audio/P01_01.wav"],
        [("P01_01_0", "epic-kitchens:P01_01", "train", "CC-BY-NC-4.0", ["paper rustle", "rustle can be heard"])],
        ["P02_01_0"],
    ),
    "kinetics700": (
        {
            "train.csv": f"label,youtube_id,time_start,time_end,split\nair drumming,{V1},94,104,train\nyoga,{V2},0,10,train\n",
            "test.csv": f"youtube_id,time_start,time_end,split\n{V3},1,11,test\n",
        },
        [f"train/air drumming/{V1}_000094_000104.mp4", f"audio/{V3}_1.wav"],
        [(f"{V1}_94", f"youtube:{V1}", "train", "unknown", ["air drumming"])],
        [f"{V2}_0", f"{V3}_1"],
    ),
    "findsounds": (
        {"findsounds.csv": "file_name,label\ndog1.au.wav,dog;bark\ngone.wav,cat\n"},
        ["audio/dog1.au.wav"],
        [("dog1.au", "findsounds:dog1.au", "train", "unknown", ["dog and bark"])],
        ["gone"],
    ),
    "musiccaps": (
        {
            "musiccaps-public.csv": "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,"
            "is_balanced_subset,is_audioset_eval\n"
            f'{V1},30,40,"/m/0140xf,/m/02cjck","[\'low quality\', ""lion\'s roar"", \'piano\']","A low, sad song.",4,False,True\n'
            f"{V2},0,10,/m/0140xf,['x'],Gone.,4,False,False\n",
        },
        [f"audio/[{V1}]-[30-40].wav"],
        [
            (f"{V1}_30", f"youtube:{V1}", "test", "unknown", ["A low, sad song.", "low quality, lion's roar, piano"]),
        ],
        [f"{V2}_0"],
    ),
    "jamendomaxcaps": (
        {
            "final_caption30sec.jsonl": '{"id": "1050", "caption": "A piano.", "start_time": 0.0, "end_time": 30.0}\n'
            '{"id": "77", "caption": "Not here.", "start_time": 0, "end_time": 30}\n\n'
            '{"id": "1050", "caption": "Strings.", "start_time": 30.0, "end_time": 60.0}\n',
            "data/train-00000-of-00001.parquet": [{"audio": {"bytes": IN_PARQUET, "path": "1050.mp3"}}],
        },
        [],
        [
            ("1050_0", "jamendo:1050", "train", "LicenseRef-Jamendo (Creative Commons, per track)", ["A piano."]),
            ("1050_30", "jamendo:1050", "train", "LicenseRef-Jamendo (Creative Commons, per track)", ["Strings."]),
        ],
        [],
    ),
    "lp_musiccaps_mc": (
        {
            "data/test-00000-of-00001.parquet": [
                {"fname": f"[{V1}]-[30-40]", "ytid": V1, "start_s": 30, "end_s": 40, "aspect_list": "piano",
                 "caption_ground_truth": "By a person.", "caption_writing": "w", "caption_summary": "s",
                 "caption_paraphrase": "p", "caption_attribute_prediction": "wrong"},
            ]
        },
        [f"audio/[{V1}]-[30-40].wav"],
        [(f"{V1}_30", f"youtube:{V1}", "test", "unknown", ["By a person.", "w", "s", "p"])],
        [],
    ),
    "lp_musiccaps_mtt": (
        {
            "data/train-00000-of-00001.parquet": [
                {"track_id": "2", "path": "f/bach.mp3", "tag_top50": ["classical"], "caption_writing": "w",
                 "caption_summary": "s", "caption_paraphrase": ""},
                {"track_id": "3", "path": "f/bach.mp3", "tag_top50": [], "caption_writing": "", "caption_summary": "",
                 "caption_paraphrase": ""},
            ]
        },
        ["f/bach.mp3"],
        [("2", "magnatagatune:2", "train", "unknown", ["w", "s"])],
        ["3"],
    ),
    "lp_musiccaps_msd": (
        {
            "data/valid-00000-of-00001.parquet": [
                {"track_id": "TRIHXPZ128F1466744", "tag": ["rap"], "caption_writing": "w", "caption_summary": None},
                {"track_id": "TRGONE", "tag": ["rap"], "caption_writing": "w", "caption_summary": None},
            ]
        },
        ["audio/TRIHXPZ128F1466744.mp3"],
        [("TRIHXPZ128F1466744", "msd:TRIHXPZ128F1466744", "validation", "unknown", ["w"])],
        ["TRGONE"],
    ),
    "nsynth": (
        {
            "nsynth-valid/examples.json": {
                note: {"note_str": note, "pitch": 60, "velocity": 50, "instrument_str": "bass_electronic_018",
                       "instrument_family_str": "synth_lead", "instrument_source_str": "electronic",
                       "qualities_str": ["dark", "long_release"]}
                for note in ("bass_electronic_018-060-050", "gone-060-050")
            }
        },
        ["nsynth-valid/audio/bass_electronic_018-060-050.wav"],
        [
            ("bass_electronic_018-060-050", "nsynth:bass_electronic_018-060-050", "validation", "CC-BY-4.0",
             ["a single note: an electronic synth lead playing C4, dark, long release"]),
        ],
        ["gone-060-050"],
    ),
    "fma": (
        {
            "fma_metadata/tracks.csv": ",album,set,set,track,track,track\n,title,split,subset,genre_top,license,title\n"
            "track_id,,,,,,\n"
            '2,"AWOL, A Way",training,small,Hip-Hop,'
            "Attribution-NonCommercial-ShareAlike 3.0 International,Food\n3,x,test,large,,CC0 1.0 Universal,y\n",
        },
        ["fma_small/000/000002.mp3", "fma_small/000/000003.mp3"],
        [("000002", "fma:000002", "train", "CC-BY-NC-SA-3.0", ["a piece of hip-hop music"])],
        ["000003"],
    ),
    "paraspeechcaps": (
        {
            f"data/{split}-00000-of-00001.parquet": [
                {"source": source, "relative_audio_path": path, "text_description": texts, "transcription": "hi",
                 "all_tags": ["deep"], "intrinsic_tags": None},
            ]
            for split, source, path, texts in (
                ("train_base", "expresso", "audio_48khz/read/ex01/confused/base/ex01_confused_00001.wav", ["a", "b"]),
                ("holdout", "voxceleb", "voxceleb2/dev/aac/id04284/gn81NY9kB7A/00251_voicefixer.wav", ["A woman."]),
                ("dev", "ears", "p001/emo_anger_freeform.wav", ["Gone."]),
            )
        },
        ["voxceleb/voxceleb2/dev/aac/id04284/gn81NY9kB7A/00251_voicefixer.wav",
         "expresso/audio_48khz/read/ex01/confused/base/ex01_confused_00001.wav"],
        [
            ("expresso/audio_48khz/read/ex01/confused/base/ex01_confused_00001",
             "expresso:audio_48khz/read/ex01/confused/base/ex01_confused_00001", "train", "unknown", ["a", "b"]),
            ("voxceleb/voxceleb2/dev/aac/id04284/gn81NY9kB7A/00251",
             "voxceleb:voxceleb2/dev/aac/id04284/gn81NY9kB7A/00251", "test", "unknown", ["A woman."]),
        ],
        ["ears/p001/emo_anger_freeform"],
    ),
    "librispeech": (
        {
            "LibriSpeech/SPEAKERS.TXT": ";ID  |SEX| SUBSET           |MINUTES| NAME\n19   | F | dev-clean | 25.19 | Kara\n",
            "LibriSpeech/dev-clean/19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n19-198-0001 GONE\n",
        },
        ["LibriSpeech/dev-clean/19/198/19-198-0000.flac"],
        [("19-198-0000", "librispeech:19-198-0000", "validation", "CC-BY-4.0", ["the voice of a woman", "northanger abbey"])],
        ["19-198-0001"],
    ),
    "common_voice": (
        {
            f"{language}/test.tsv": "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\t"
            f"accents\tvariant\tlocale\tsegment\nab\tcommon_voice_{language}_1.mp3\t9\t{words}\t\t2\t0\t\tfemale_feminine\t\t\t"
            f"{language}\t\n"
            for language, words in (("en", 'She said "no.'), ("fr", "Le chat dort."), ("de", "Weg."))
        },
        ["en/clips/common_voice_en_1.mp3", "fr/clips/common_voice_fr_1.mp3"],
        [
            ("common_voice_en_1", "commonvoice:common_voice_en_1", "test", "CC0-1.0", ["a woman reads aloud", 'She said "no.']),
            ("common_voice_fr_1", "commonvoice:common_voice_fr_1", "test", "CC0-1.0", ["Le chat dort."]),
        ],
        ["common_voice_de_1"],
    ),
    "ljspeech": (
        {"metadata.csv": 'LJ001-0001|In 1445, "x|In fourteen forty-five, "x\nLJ001-0002|Gone.|Gone.\n'},
        ["wavs/LJ001-0001.wav"],
        [("LJ001-0001", "ljspeech:LJ001-0001", "train", "public-domain", ['In fourteen forty-five, "x', "a woman speaking"])],
        ["LJ001-0002"],
    ),
    "meld": (
        {
            "dev_sent_emo.csv": "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,"
            'EndTime\n1,"Oh my God, he\x92s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"\n'
            '2,Gone.,Monica,surprise,positive,0,1,4,7,"00:21:01,927","00:21:04,261"\n',
        },
        ["dev_splits_complete/dia0_utt0.mp4"],
        [("validation/dia0_utt0", "meld:validation/dia0_utt0", "validation", "unknown",
          ["Oh my God, he’s lost it.", "a person speaking in a sad voice"])],
        ["validation/dia0_utt1"],
    ),
    "iemocap": (
        {
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
            "[10.0100 - 11.3925]\tSes01F_impro01_F001\txxx\t[2.5000, 2.5000, 2.5000]\n"
            "[14.8872 - 18.0175]\tSes01F_impro01_F002\tang\t[2.5000, 2.5000, 2.5000]\n",
            "Session1/dialog/transcriptions/Ses01F_impro01.txt": "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
            "Ses01F_impro01_F001 [010.0100-011.3925]: Yeah.\n",
        },
        ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
         "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F001.wav"],
        [
            ("Ses01F_impro01_F000", "iemocap:Ses01F_impro01_F000", "train", "LicenseRef-IEMOCAP (research, signed)",
             ["Excuse me.", "someone talks in a neutral voice"]),
            ("Ses01F_impro01_F001", "iemocap:Ses01F_impro01_F001", "train", "LicenseRef-IEMOCAP (research, signed)", ["Yeah."]),
        ],
        ["Ses01F_impro01_F002"],
    ),
    "msp_podcast": (
        {
            "Labels/labels_consensus.csv": "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
            "MSP-PODCAST_0001_0008.wav,H,2.2,4.0,2.6,30,Male,Test1\nMSP-PODCAST_0001_0009.wav,X,3.7,3.5,3.7,39,Male,Train\n",
        },
        ["Audios/MSP-PODCAST_0001_0008.wav", "Audios/MSP-PODCAST_0001_0009.wav"],
        [("MSP-PODCAST_0001_0008", "msp_podcast:MSP-PODCAST_0001_0008", "test", "LicenseRef-MSP-Podcast (academic, signed)",
          ["speech in a happy voice"])],
        ["MSP-PODCAST_0001_0009"],  # no agreement on its emotion, and no transcript
    ),
    "cmu_mosi": (
        {
            "Raw/Transcript/Segmented/03bSnISJMiM.annotprocessed": "1_DELIM_ANYHOW IT WAS REALLY GOOD\n2_DELIM_GONE\n",
            "label.csv": "video_id,clip_id,text,label,annotation,mode\n03bSnISJMiM,1,ANYHOW,2.4,Positive,test\n",
        },
        ["Raw/Audio/WAV_16000/Segmented/03bSnISJMiM_1.wav"],
        [("03bSnISJMiM_1", "cmu_mosi:03bSnISJMiM_1", "test", "unknown",
          ["anyhow it was really good", "a person speaking in a pleased voice"])],
        ["03bSnISJMiM_2"],
    ),
    "cmu_mosei": (
        {"Raw/Transcript/Segmented/Combined/-3g5yACwYnA.txt": "-3g5yACwYnA___0___0.25___9.5___Key is part of it\nbroken line\n"},
        ["Raw/Audio/Full/WAV_16000/-3g5yACwYnA.wav"],
        [("-3g5yACwYnA_0", "cmu_mosei:-3g5yACwYnA_0", "train", "unknown", ["key is part of it"])],
        [],
    ),
    "esc50": (
        {
            "meta/esc50.csv": "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n"
            "1-9-A-0.wav,1,0,sea_waves,False,9,A\n",
        },
        ["audio/1-100032-A-0.wav"],
        [("1-100032-A-0", "freesound:100032", "test", "CC-BY-NC-3.0", ["the sound of dog"])],
        ["1-9-A-0"],
    ),
    "urbansound8k": (
        {
            "metadata/UrbanSound8K.csv": "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
            "100263-2-0-117.wav,100263,58.5,62.5,1,5,2,children_playing\n1-2-0-0.wav,1,0,1,1,5,2,siren\n",
        },
        ["audio/fold5/100263-2-0-117.wav"],
        [("100263-2-0-117", "freesound:100263", "test", "CC-BY-NC-3.0", ["a recording of children playing"])],
        ["1-2-0-0"],
    ),
    "gtzan": (
        {},
        ["genres_original/blues/blues.00000.wav", "genres_original/hiphop/hiphop.00001.wav"],
        [
            ("blues.00000", "gtzan:blues.00000", "test", "unknown", ["blues music can be heard"]),
            ("hiphop.00001", "gtzan:hiphop.00001", "test", "unknown", ["a piece of hiphop music"]),
        ],
        [],
    ),
    "folder": (
        {"one.txt": "A dog barks.\n\n Barking \n"},
        ["one.wav", "cow_bell/two.flac", "three.wav"],
        [
            ("cow_bell/two", "folder:cow_bell/two", "train", "unknown", ["cow bell can be heard"]),
            ("one", "folder:one", "train", "unknown", ["A dog barks.", "Barking"]),
        ],
        ["three"],
    ),
    "table": (
        {
            "a.csv": "file_name,caption_1,caption_2,license,redistributable,split,domain\n"
            "x/1.wav,one,two,CC BY 4.0,,val,music\nx/gone.wav,one,,,,,\n",
            "b.jsonl": '{"id": "b1", "audio": "x/2.wav", "captions": ["a", "b"], "source_id": "freesound:7", "language": "de",'
            ' "provenance": "machine", "start": 1, "end": "2.5"}\n',
        },
        ["x/1.wav", "x/2.wav"],
        [
            ("x/1", "table:x/1", "validation", "CC-BY-4.0", ["one", "two"]),
            ("b1", "freesound:7", "train", "unknown", ["a", "b"]),
        ],
        ["x/gone"],
    ),
    "parquet": (
        {"p/t.parquet": [{"audio": {"bytes": IN_PARQUET, "path": "x.ogg"}, "label": "dog"},
                         {"audio": {"bytes": IN_PARQUET, "path": "y.ogg"}, "label": None}]},
        [],
        [("t/0", "parquet:t/0", "train", "unknown", ["dog can be heard"])],
        ["t/1"],
    ),
    "webdataset": (
        {"shards/0.tar": [("a/1.flac", IN_PARQUET), ("a/1.json", '{"text": ["x", "y"], "license": "cc0"}'),
                          ("a/2.json", '{"text": "no sound"}'), ("a/3.WAV", IN_PARQUET), ("a/3.txt", "z\n")]},
        [],
        [("a/1", "webdataset:a/1", "train", "CC0-1.0", ["x", "y"]), ("a/3", "webdataset:a/3", "train", "unknown", ["z"])],
        ["a/2"],
    ),
    "package": (
        {
            "x.parquet": [
                {"audio": {"bytes": IN_PARQUET, "path": "1.ogg"}, "id": number, "split": split, "domain": domain,
                 "label": label, "caption": caption, "source_text": said, "transcript_en": english, "language": language,
                 "package": "some-data", "version": None, "license": license, "redistributable": free}
                for number, split, domain, label, caption, said, english, language, license, free in (
                    ("1", "train", "animal", "dog", "a dog barking", "bark 2", "", "", "CC-BY-SA-3.0", True),
                    ("2", "heldout", "speech", "speech:Czech", "a voice", "Ticho!", "Silence!", "cs", "GPL-2+", False),
                )
            ]
        },
        [],
        [
            ("1", "package:some-data/1", "train", "CC-BY-SA-3.0", ["a dog barking"]),
            ("2", "package:some-data/2", "test", "GPL-2+", ["a voice", "Silence!"]),
        ],
        [],
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, clips):
    """place(recipe) makes the miniature of a source and gives its folder."""
    sounds = [clip["audio"]["bytes"] for clip in clips]

    def make(name: str) -> Path:
        files, sound_files, _, _ = SOURCES[name]
        for number, path in enumerate(sound_files):
            _write(tmp_path / path, sounds[number % len(sounds)])
        for path, content in files.items():
            if path.endswith(".parquet"):
                _write(tmp_path / path, b"")
                pq.write_table(pa.Table.from_pylist(_with_sound(content, sounds[0])), tmp_path / path)
            elif path.endswith(".tar"):
                _write(tmp_path / path, b"")
                with tarfile.open(tmp_path / path, "w") as archive:
                    for member, data in content:
                        data = sounds[0] if data == IN_PARQUET else data.encode()
                        info = tarfile.TarInfo(member)
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
            else:
                text = content if isinstance(content, str | bytes) else json.dumps(content)
                _write(tmp_path / path, text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return make


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _with_sound(value, sound: bytes):
    if isinstance(value, dict):
        return {key: _with_sound(item, sound) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_sound(item, sound) for item in value]
    return sound if value == IN_PARQUET else value


def split_up(items) -> tuple[list, list[RecordError]]:
    items = list(items)
    records = [item for item in items if not isinstance(item, RecordError)]
    return records, [item for item in items if isinstance(item, RecordError)]


def test_every_recipe_has_its_miniature():
    assert sorted(SOURCES) == sorted(names())


@pytest.mark.parametrize("name", SOURCES)
def test_a_miniature_of_the_source_becomes_records(name, place):
    recipe, folder = get_recipe(name), place(name)
    records, problems = split_up(recipe.records(folder))
    _, _, wanted, missing = SOURCES[name]

    came = [(r.id, r.source_id, r.split, r.license, [caption.text for caption in r.captions]) for r in records]
    assert came == [(f"{name}/{key}", *rest) for key, *rest in wanted]
    assert [problem.record for problem in problems] == [f"{name}/{key}" for key in missing]
    for record in records:
        validate(record, prepared=False)
        audio = record.audio
        assert soundfile.info(io.BytesIO(audio["bytes"]) if audio["bytes"] else audio["path"]).frames > 0
        if name != "package":  # which states it per clip
            stated = record.license != recipe.license
            assert record.redistributable == (is_free(record.license) if stated else recipe.redistributable)
        for caption in record.captions:
            assert caption.provenance in recipe.captions or recipe.access == "own", caption
    again, _ = split_up(recipe.records(folder))
    assert again == records


SPANS = {  # segments, and the cuts of those sources whose files are longer than their clips
    "audiocaps": [(30, 40), (20, 30)],
    "clotho": [(1, 2), None],
    "audiosetcaps": [None, (88, 98), (84, 94)],
    "vggsound": [(30, 40)],
    "audioset": [(30, 40), (20, 29.5)],
    "kinetics700": [(94, 104)],
    "musiccaps": [(30, 40)],
    "urbansound8k": [(58.5, 62.5)],
    "table": [None, (1, 2.5)],
    "epic_sounds": [(0.25, 65.315)],
    "jamendomaxcaps": [(0, 30), (30, 60)],
    "cmu_mosei": [(0.25, 9.5)],
}
CUT = ("epic_sounds", "jamendomaxcaps", "cmu_mosei")


@pytest.mark.parametrize("name", SPANS)
def test_segments_are_seconds_of_the_original_and_cuts_those_of_the_file(name, place):
    records, _ = split_up(get_recipe(name).records(place(name)))
    segments = [record.segment and (record.segment["start"], record.segment["end"]) for record in records]
    assert segments == SPANS[name]
    assert [record.cut for record in records] == (SPANS[name] if name in CUT else [None] * len(records))


def test_provenance_model_style_labels_and_language_are_the_sources(place, tmp_path):
    def facts(name):
        (tmp_path / name).mkdir()
        records, _ = split_up(get_recipe(name).records(place(name)))
        return [(r.labels, r.language, [(c.provenance, c.model, c.style) for c in r.captions]) for r in records]

    assert facts("lp_musiccaps_mc")[0] == (
        ["piano"],
        "en",
        [("human", None, "ground truth")]
        + [("machine", "gpt-3.5-turbo", style) for style in ("writing", "summary", "paraphrase")],
    )
    assert facts("common_voice")[1] == ([], "fr", [("human", None, "transcript")])
    assert facts("fsd50k")[0] == (["Electric_guitar", "Guitar", "Music"], "en", [("template", None, "sound")])
    assert facts("table")[1] == ([], "de", [("machine", "unknown", "")] * 2)
    assert facts("clotho")[0][0] == ["rain", "caf\xe9"]


# ----------------------------------------------------------------------------------------------------- what goes wrong
def test_a_half_placed_folder_is_told_what_is_expected_and_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"audiocaps: no folder '.*absent'\nAudioCaps: https://github"):
        get_recipe("audiocaps").records(tmp_path / "absent")
    (tmp_path / "train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n")
    (tmp_path / "sounds").mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        get_recipe("audiocaps").records(tmp_path)
    lines = str(raised.value).splitlines()
    assert lines[1:4] == [
        "  found    train.csv or val.csv or test.csv",
        "  missing  audio",
        "  the folder holds: sounds/, train.csv",
    ]
    assert "  place it: train.csv, val.csv, test.csv as published; sound in audio/" in raised.value.args[0]


def test_a_folder_without_one_sound_of_the_source_is_an_error(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "vggsound.csv").write_text(f"{V1},30,dog,test\n{V2},30,dog,test\n")
    items = get_recipe("vggsound").records(tmp_path)
    assert [type(next(items)) for _ in range(2)] == [RecordError, RecordError]
    with pytest.raises(FileNotFoundError, match=rf"not one clip .* the first row: .*a sound file audio/{V1}_30 or "):
        next(items)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "audiocaps",
            {"train.csv": "id,caption\n1,x\n"},
            r"train.csv has no column \['audiocap_id', 'youtube_id', 'st",
        ),
        (
            "nsynth",
            {"nsynth-test/audio/x.wav": "", "nsynth-test/examples.json": '{"x": {"pitch": 1}}'},
            "nsynth: a file that cannot be read as expected, before its first row: KeyError",
        ),
        ("audioset", {"ontology.json": "{", "eval_segments.csv": "#\n"}, "ontology.json is no JSON"),
        ("table", {"a.jsonl": '{"audio": "x.wav"}\n{"aud'}, "table: a file that .*a.jsonl, line 2 is no JSON object"),
        (
            "table",
            {"a.csv": "name,caption\nx.wav,dog\n"},
            r"no column names the sound file; its columns are \['name', 'c",
        ),
    ],
)
def test_a_table_that_is_not_the_sources_is_an_error_with_its_name(name, files, message, tmp_path):
    _write(tmp_path / "audio" / "x.wav", b"")
    for path, text in files.items():
        _write(tmp_path / path, text.encode())
    with pytest.raises(ValueError, match=message):
        list(get_recipe(name).records(tmp_path))


def test_an_impossible_time_costs_its_row_and_no_other(tmp_path, clips):
    _write(tmp_path / "ontology.json", b'[{"id": "/m/1", "name": "Dog"}]')
    lines = [f'{V1}, 30.000, 20.000, "/m/1"', f'{V3}, 0.000, soon, "/m/1"', f'{V2}, 1.000, 9.000, "/m/1"']
    _write(tmp_path / "eval_segments.csv", "\n".join(lines).encode())
    for video in (V1, V2, V3):
        _write(tmp_path / "audio" / f"{video}.wav", clips[0]["audio"]["bytes"])
    records, problems = split_up(get_recipe("audioset").records(tmp_path))
    assert [record.source_id for record in records] == [f"youtube:{V2}"]
    assert [(problem.record, problem.field) for problem in problems] == [
        (f"audioset/{V1}_30", "segment"),
        (f"audioset/{V3}_0", "segment"),
    ]


# ------------------------------------------------------------------------------------------------------------ the parts
def test_a_recipe_of_your_own_takes_your_terms_and_the_path_of_one_file(place):
    recipe = get_recipe(
        "parquet", name="mine", license="CC-BY-4.0", redistributable=True, domain="music", language="fr"
    )
    record = next(recipe.records(place("parquet") / "p" / "t.parquet"))
    assert (record.id, record.source, record.source_id) == ("mine/t/0", "mine", "mine:t/0")
    assert (record.license, record.redistributable, record.domain, record.language) == (
        "CC-BY-4.0",
        True,
        "music",
        "fr",
    )
    with pytest.raises(FileNotFoundError, match="clotho: '.*t.parquet' is not laid out as expected"):
        get_recipe("clotho").records(place("parquet") / "p" / "t.parquet")
    with pytest.raises(ValueError, match=r"no recipe 'audio_caps'; there are \['audiocaps', 'clotho'"):
        get_recipe("audio_caps")
    with pytest.raises(ValueError, match=r"a recipe has no \['licence'\]; its fields are \['name'"):
        get_recipe("folder", licence="CC0-1.0")


def test_a_table_of_your_own_has_a_row_per_clip_or_per_caption_and_no_row_stops_the_others(tmp_path, clips):
    for name in "abc":
        _write(tmp_path / f"{name}.flac", clips[0]["audio"]["bytes"])
    lines = [
        "file_name,text,split",
        "a.flac,[laughs] a man,",
        "a.flac,a man and a dog,",
        ",nothing,",
        "b.flac,rain,val",
    ]
    _write(tmp_path / "metadata.csv", "\n".join([*lines, "c.flac,leak,test_clean"]).encode())
    found, problems = split_up(get_recipe("table").records(tmp_path))
    assert [(record.id, record.split) for record in found] == [("table/a", "train"), ("table/b", "validation")]
    assert [caption.text for caption in found[0].captions] == ["[laughs] a man", "a man and a dog"]
    assert [(problem.record, problem.field) for problem in problems] == [
        ("table/metadata.csv/3", "audio"),
        ("table/c", "split"),  # of an unknown name: it may be a test, so it is not trained on
    ]


def test_parquet_without_sound_costs_its_row_and_paths_begin_at_its_folder(tmp_path, clips):
    _write(tmp_path / "a.flac", clips[0]["audio"]["bytes"])
    audio = [None, {"bytes": None, "path": "a.flac"}, {"bytes": None, "path": None}]
    rows = [{"id": str(number), "audio": one, "caption": "rain"} for number, one in enumerate(audio)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found, problems = split_up(get_recipe("parquet").records(tmp_path))
    assert [record.audio["path"] for record in found] == [str(tmp_path / "a.flac")]
    assert [problem.record for problem in problems] == ["parquet/0", "parquet/2"] and "is null" in str(problems[0])


def test_a_tar_that_is_cut_off_is_an_error_with_its_name(tmp_path, place):
    whole = next(place("webdataset").rglob("*.tar")).read_bytes()
    for content in (whole[:700], b"no tar", b"\x1f\x8b\x08"):  # the last is the start of a gzip header
        _write(tmp_path / "cut.tar", content)
        with pytest.raises(ValueError, match="cut.tar is no tar file, or is cut off"):
            list(get_recipe("webdataset").records(tmp_path))


@pytest.mark.parametrize(
    ("stated", "license", "free"),
    [
        ("http://creativecommons.org/licenses/by/3.0/", "CC-BY-3.0", True),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode", "CC-BY-NC-SA-4.0", False),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0", True),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "LicenseRef-CC-Sampling-Plus-1.0", False),
        ("Attribution-NonCommercial-NoDerivatives (aka Music Sharing) 3.0 International", "CC-BY-NC-ND-3.0", False),
        ("Attribution-ShareAlike 3.0 United States", "CC-BY-SA-3.0", True),
        ("cc by-sa 4.0", "CC-BY-SA-4.0", True),
        ("CC-BY-SA-3", "CC-BY-SA-3", True),
        ("CC-BY-SA-3.0 or GPL-3", "CC-BY-SA-3.0 or GPL-3", False),
        ("Public Domain", "public-domain", True),
        ("GPL-2+", "GPL-2+", False),
    ],
)
def test_licences_are_read_from_ids_addresses_and_names(stated, license, free):
    assert (spdx(stated), is_free(license)) == (license, free)


def test_times_labels_and_templates():
    assert [seconds(text) for text in (2, "2.5", "01:02", "01:00:02.25")] == [2, 2.5, 62, 3602.25]
    assert readable("Male_speech, man speaking") == "male speech" and readable("Crowd (background)") == "crowd"
    texts = [template("sound", str(number), "rain")[0].text for number in range(1000)]
    counts = {text: texts.count(text) for text in texts}
    assert len(counts) == 4 and min(counts.values()) > 200  # 250 each, standard deviation 14
    assert texts[:4] == [template("sound", str(number), "rain")[0].text for number in range(4)]
    assert template("speech", "x", "a man", "") == []


def test_the_20_sources_of_clap_2023_have_recipes():
    assert len(CLAP_2023) == 20
    assert {name for recipes in CLAP_2023.values() for name in recipes} <= set(names())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipes_declare_what_people_must_know(recipe):
    assert recipe.domain in DOMAINS and recipe.access in ACCESS and recipe.name == recipe.name.lower()
    assert bool(recipe.pages) == (recipe.access != "own" or recipe.name == "findsounds")
    assert any(provenance in recipe.captions for provenance in (*PROVENANCES, "yours"))
    if recipe.access != "own":
        assert recipe.redistributable == is_free(recipe.license)
    for part in (recipe.title, recipe.placement, ACCESS[recipe.access], recipe.license, recipe.not_checked):
        assert part in recipe.how_to_get


def test_the_readme_lists_the_recipes():
    table = README.read_text(encoding="utf-8").split("<!-- recipes -->\n")[1].split("\n\n")[0]
    assert table == readme_table(), "paste what hf_slap.data.recipes.readme_table() gives"
