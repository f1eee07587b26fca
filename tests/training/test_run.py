"""The whole recipe in small: every stage, one after another, and again."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.audio import write_wav
from models.westlake.checkpoint import load_checkpoint
from models.westlake.moods import MOODS_FILE, MoodClassifier, write_moods
from training import recipe, run
from training.codec.config import new_codec
from training.dialogues import EMOTIONS, UNTOLD, Dialogues
from training.files import is_up_to_date
from training.language import preference
from training.language.corpus import read_spoken
from training.loop import StateError
from training.speech import recordings
from training.speech.lines import foreign_lines
from training.speech.speakers import SAMPLE_RATE
from training.work_folder import CORPUS

MINUTES = 1e-6  # of which every stage makes one step


@pytest.fixture
def small_recipe(
    dialogues: Dialogues,
    made_up_teacher,
    small_models,
    no_converter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe, "load_dialogues", lambda: dialogues)
    some = foreign_lines(1, seed=0)[:4]
    monkeypatch.setattr(recipe, "foreign_lines", lambda *_, **__: some)
    monkeypatch.setattr(recordings, "SHARD_SIZE", 8)
    for name, value in {"USER_ROUNDS": 2, "VARIED_ROUNDS": 1, "NUM_SOUNDS": 8}.items():
        monkeypatch.setattr(recipe, name, value)


def run_recipe(folder: Path, *options: str) -> None:
    paths = ["--work", str(folder / "work"), "--output", str(folder / "tiny")]
    fixed = ["--minutes", str(MINUTES), "--workers", "1", "--device", "cpu"]
    run.main([*paths, *fixed, *options])


def test_the_recipe_makes_a_checkpoint_and_takes_what_is_there(
    tmp_path: Path, small_recipe, monkeypatch: pytest.MonkeyPatch
):
    run_recipe(tmp_path)
    work, output = tmp_path / "work", tmp_path / "tiny"
    checkpoint = load_checkpoint(output, device="cpu")
    assert checkpoint.tokenizer.get_vocab().keys() >= {"<|user|>", "<|style:warm|>"}
    assert checkpoint.topic_leaning is not None and checkpoint.syllables is not None
    assert checkpoint.mood_leaning is not None
    preferred = torch.load(work / "preferred.pt", weights_only=True)
    torch.testing.assert_close(
        checkpoint.model.state_dict()["norm.weight"].float(),
        preferred["norm.weight"],
        rtol=0,
        atol=1e-3,
    )
    names = ("codes", "hearing", "recogniser", "slow_stages", "vocoder", "polished")
    names += ("understanding", "language_model")
    for name in names:
        assert torch.load(work / f"{name}.pt", weights_only=True)["step"] == 1, name
    assert not list(work.rglob("*.new"))
    polished_with = ["assistant_shifted_clips", "plain_clips", "user_clean_clips", "user_clips"]
    assert list(recipe.POLISH_SHARES) == polished_with and sum(recipe.POLISH_SHARES.values()) == 1
    assert all((work / f"{name}.codes.pt").exists() for name in polished_with)

    # Once more: nothing is said, encoded, trained or spoken again.
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    monkeypatch.setattr("training.speech.teacher.say", None)
    monkeypatch.setattr("training.language.corpus.encode", None)
    monkeypatch.setattr(preference, "speak", None)
    run_recipe(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    changed = {path.relative_to(work).parts[0] for path in after if after[path] != before.get(path)}
    assert changed == {"checkpoint"}  # which export writes anew


def test_an_export_that_fails_leaves_the_old_checkpoint(
    tmp_path: Path, small_recipe, monkeypatch: pytest.MonkeyPatch
):
    made = recipe.Recipe(tmp_path / "work", tmp_path / "tiny", MINUTES, "cpu", 1)
    made.output.mkdir()
    (made.output / "model.safetensors").write_text("old")
    made.tokenizer()
    made.topics()
    made.syllables()
    write_moods(made.work / MOODS_FILE, MoodClassifier(EMOTIONS, SAMPLE_RATE))
    tokenizer = made.load_tokenizer()
    model = recipe.new_language_model(tokenizer)
    torch.save(model.state_dict(), made.work / "preferred.pt")
    codec = new_codec()
    for name in ("hearing.pt", "polished.pt"):
        (made.work / name).touch()
    monkeypatch.setattr(recipe, "load_codec", lambda *paths: codec)

    def fail(*args, **kwargs):
        raise OSError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr("models.westlake.saved_checkpoint.save_tokenizer", fail)
        with pytest.raises(OSError, match="no space"):
            made.export()
    assert (made.output / "model.safetensors").read_text() == "old"
    made.export()
    load_checkpoint(made.output, device="cpu")


def test_preference_begins_anew_where_the_language_model_was_trained_on(
    tmp_path: Path, small_recipe, monkeypatch: pytest.MonkeyPatch
):
    made = recipe.Recipe(tmp_path, tmp_path / "tiny", MINUTES, "cpu", 1)
    made.tokenizer()
    trained = []
    for name in ("preferred.pt", "preference.pt", "preference_pairs.pt", "language_model.pt"):
        (tmp_path / name).write_text("")
    for name in ("hearing.pt", "polished.pt", "recogniser.pt", *CORPUS):
        (tmp_path / name).touch()
    for name in ("load_language_model", "load_codec", "Corpus", "load_recogniser"):
        monkeypatch.setattr(recipe, name, lambda *args: SimpleNamespace(conversations=None))
    monkeypatch.setattr(recipe, "train_preference", lambda *args: trained.append(args))
    future = (tmp_path / "preferred.pt").stat().st_mtime + 10
    os.utime(tmp_path / "preference.pt", (future + 1, future + 1))
    os.utime(tmp_path / "language_model.pt", (future, future))
    assert not is_up_to_date(tmp_path / "preferred.pt", tmp_path / "language_model.pt")
    made.preference()
    assert len(trained) == 1
    assert (tmp_path / "preference.pt").exists()  # of this model, and goes on
    assert not (tmp_path / "preference_pairs.pt").exists()
    os.utime(tmp_path / "preferred.pt", (future + 2, future + 2))
    made.preference()
    assert len(trained) == 1


def test_codes_of_an_earlier_encoder_are_made_anew(
    tmp_path: Path, small_recipe, capsys, monkeypatch: pytest.MonkeyPatch
):
    run_recipe(tmp_path, "--stage", "recordings")
    work = tmp_path / "work"
    monkeypatch.setattr(recipe, "load_codes", lambda path: new_codec())
    encoder, clips = work / "hearing.pt", work / "user_clips.codes.pt"
    encoder.touch()
    run_recipe(tmp_path, "--stage", "corpus")
    clips.touch()
    *others, users = (list((work / name).iterdir()) for name in CORPUS)
    before = [path.stat().st_mtime_ns for path in users]
    old = [path for shards in others for path in shards[:1]]
    for path in (*old, clips):
        os.utime(path, (0, 0))
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", "understanding")
    message = f"{old[0].parent} holds codes of an earlier encoder: run --stage corpus first"
    assert message in capsys.readouterr().err
    run_recipe(tmp_path, "--stage", "corpus")
    assert all(is_up_to_date(path, encoder) for path in old) and not clips.exists()
    assert [path.stat().st_mtime_ns for path in users] == before


def test_the_encoder_is_held_to_what_replies_were_coded_as(
    tmp_path: Path, small_recipe, monkeypatch: pytest.MonkeyPatch
):
    learned = []
    monkeypatch.setattr(recipe, "train_hearing", lambda *args: learned.extend(args[1]))
    run_recipe(tmp_path, "--stage", "recordings")
    (tmp_path / "work" / "codes.pt").touch()
    run_recipe(tmp_path, "--stage", "hearing")
    takes = tmp_path / "work" / "takes"
    expected = [*recordings.read(takes / "users"), *recordings.read(takes / "replies")]
    assert [recording.line for recording in learned] == [recording.line for recording in expected]


def test_an_unknown_stage_is_refused(tmp_path: Path, small_recipe, capsys):
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", "codex")
    assert (
        "unknown stage 'codex': choose one of tokenizer, topics, syllables"
        in capsys.readouterr().err
    )


CLIPS = ["heldout_clips.npy", "assistant_clips.npy", "user_clips.npy"]
POLISHED_WITH = [f"{name}.npy" for name in recipe.POLISH_SHARES]
NEEDS = {
    "syllables": ["tokenizer"],
    "codes": CLIPS,
    "hearing": ["codes.pt"],
    "slow_stages": [*CLIPS, "hearing.pt", "recogniser.pt"],
    "vocoder": [*CLIPS, "hearing.pt", "recogniser.pt", "slow_stages.pt"],
    "polish": [CLIPS[0], *POLISHED_WITH, "hearing.pt", "recogniser.pt", "vocoder.pt"],
    "corpus": ["hearing.pt"],
    "understanding": ["tokenizer", *CORPUS, "hearing.pt"],
    "language_model": ["tokenizer", *CORPUS, "hearing.pt", "understanding.pt"],
    "preference": [
        "tokenizer", *CORPUS, "hearing.pt", "polished.pt", "recogniser.pt", "language_model.pt",
    ],
    "export": ["tokenizer", "hearing.pt", "polished.pt", "preferred.pt"],
}  # fmt: skip


def maker_of(name: str) -> str:
    """The stage that makes a file of the work folder."""
    known = {"polished.pt": "polish", "preferred.pt": "preference"}
    known |= dict.fromkeys(CORPUS, "corpus") | dict.fromkeys([*CLIPS, *POLISHED_WITH], "clips")
    return known.get(name, name.removesuffix(".pt"))


@pytest.mark.parametrize(
    ("stage", "missing"), [(stage, name) for stage, names in NEEDS.items() for name in names]
)
def test_a_stage_names_the_one_that_it_needs_first(
    tmp_path: Path, small_recipe, capsys, monkeypatch: pytest.MonkeyPatch, stage: str, missing: str
):
    work = tmp_path / "work"
    work.mkdir()
    for name in set(NEEDS[stage]) - {missing}:
        (work / name).touch()
    for name in vars(recipe).copy():
        if name.startswith(("load_", "new_")) and name != "load_dialogues":
            monkeypatch.setattr(recipe, name, lambda *args: torch.nn.Identity())
    monkeypatch.setattr(recipe.torch, "load", lambda *args, **kwargs: {})
    monkeypatch.setattr(recipe.WorkFolder, "need_recordings", lambda folder, lines: None)
    monkeypatch.setattr(recipe, "Corpus", lambda *args: SimpleNamespace(conversations=None))
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", stage)
    expected = f"{work / missing} is missing: run --stage {maker_of(missing)} first"
    assert expected in capsys.readouterr().err


def test_a_state_of_another_make_ends_without_a_traceback(
    tmp_path: Path, small_recipe, capsys, monkeypatch: pytest.MonkeyPatch
):
    def train(*args) -> None:
        raise StateError("codes.pt is of another make")

    monkeypatch.setattr(recipe.Recipe, "codes", train)
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", "codes")
    assert "codes.pt is of another make" in capsys.readouterr().err


def test_other_voices_are_recorded_where_their_folder_is_given(
    tmp_path: Path, small_recipe, capsys, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--voices", str(tmp_path), "--stage", "recordings")
    assert "lacks am_onyx" in capsys.readouterr().err
    monkeypatch.setattr(run, "check_voices", lambda folder: None)
    monkeypatch.setattr(recordings, "voice_names", lambda voices: ["jf_alpha", "zf_xiaoni"])
    monkeypatch.setattr(recipe, "OTHER_RECORDINGS", 6)
    run_recipe(tmp_path, "--voices", str(tmp_path), "--stage", "recordings")
    work = tmp_path / "work"
    others = sorted((work / "takes" / "others").iterdir())
    found = [recording.line for recording in recordings.read(others[0].parent)]
    assert len(found) == 6 and all(line.other for line in found)
    monkeypatch.setattr(recipe, "load_codes", lambda path: new_codec())
    (work / "hearing.pt").touch()
    run_recipe(tmp_path, "--stage", "corpus")
    heard = [spoken.text for spoken in read_spoken(work / "users")]
    assert {line.text for line in found} <= set(heard)
    assert len(list((work / "users").glob("others-*.pt"))) == len(others)
    others[-1].unlink()  # nor is a part of them learned from, with or without the option
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", "corpus")
    assert "takes/others lacks 1 files" in capsys.readouterr().err


def test_recordings_of_others_are_learned_from(
    tmp_path: Path, small_recipe, capsys, monkeypatch: pytest.MonkeyPatch
):
    people = tmp_path / "people"
    people.mkdir()
    speech = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) / 10
    write_wav(people / "0.wav", speech * torch.linspace(0.1, 1, 16_000), 16_000)
    (people / "lines.tsv").write_text("0.wav\ttalk.hello\tuntold\t早上好！", encoding="utf-8")
    run_recipe(tmp_path, "--stage", "recordings")
    monkeypatch.setattr(recipe, "load_codes", lambda path: new_codec())
    (tmp_path / "work" / "hearing.pt").touch()
    with pytest.raises(SystemExit):  # none of it is left out by mistake
        run_recipe(tmp_path, "--recordings", str(people), "--stage", "corpus")
    assert "takes/given is missing: run --stage recordings first" in capsys.readouterr().err
    for stage in ("recordings", "corpus"):
        run_recipe(tmp_path, "--recordings", str(people), "--stage", stage)
    (heard,) = (s for s in read_spoken(tmp_path / "work" / "users") if s.manner == UNTOLD)
    assert (heard.intent, heard.text, heard.onsets) == ("talk.hello", "早上好！", ())
    assert heard.codes.shape[1] == pytest.approx(16_000 / 16_000 * 21.53, abs=3)
    (people / "lines.tsv").write_text("0.wav\ttalk.hello", encoding="utf-8")
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--recordings", str(people), "--stage", "recordings")
    assert "lines.tsv:1: 2 parts" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["clips", "hearing", "recogniser", "corpus"])
def test_a_part_of_the_recordings_is_not_learned_from(
    tmp_path: Path, small_recipe, capsys, stage: str
):
    run_recipe(tmp_path, "--stage", "recordings")
    last = sorted((tmp_path / "work" / "takes" / "users").iterdir())[-1]
    last.unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, "--stage", stage)
    assert "takes/users lacks 1 files: run --stage recordings first" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    run_recipe(tmp_path, "--stage", "recordings")
    assert last.exists()
    run_recipe(tmp_path, "--stage", "clips")
    assert (tmp_path / "work" / "user_clips.npy").exists()


@pytest.mark.parametrize("option", ["--minutes", "--workers"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_neither_time_nor_processes_is_refused(
    tmp_path: Path, small_recipe, capsys, option: str, value: str
):
    with pytest.raises(SystemExit):
        run_recipe(tmp_path, option, value)
    assert f"{option} is {value}, but must be " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
