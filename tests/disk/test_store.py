"""What is on disk: whole after a crash, mended after damage, refused when it belongs to something else."""

import errno
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from filelock import FileLock

from active_learning.disk.files import StoreError, is_held, locked, make_folder, refusal, write_atomically
from active_learning.disk.record import Round, chain, read_sealed, record_lines
from active_learning.disk.store import RunFolder, check_result_dir, finished_curves, write_curves
from active_learning.settings.arms import planned_runs
from active_learning.settings.config import ConfigError, ExperimentConfig, RunConfig
from active_learning.settings.flags import read_flags
from tests.conftest import ROOT

CONFIG = RunConfig(
    dataset="mnist",
    acquisition="bald",
    learner="bayesian",
    repetition=0,
    seed=369,
    rounds=3,
    query=2,
    pool_subset=2000,
    val_size=100,
    batch_size=128,
    epochs=50,
    lr=1e-3,
    dropout_iter=100,
    weight_decay="tune",
    warm_start=False,
    precision="float32",
    device="cpu",
    threads=1,
)


def changed(**fields: object) -> RunConfig:
    """CONFIG with other values."""
    return RunConfig(**{**vars(CONFIG), **fields})


def write_rounds(result_dir: Path, config: RunConfig, count: int) -> RunFolder:
    """Write the next rounds of a run, of numbers that only depend on repetition and round."""
    folder = RunFolder(result_dir, config)
    with folder.locked():
        folder.load()
        folder.mend()
        folder.begin_session({"threads": 1})
        for round_ in range(len(folder.rounds), count):
            folder.append(make_round(config, round_))
    return folder


def make_round(config: RunConfig, round_: int) -> Round:
    return Round(
        round=round_,
        labelled=20 + 2 * round_,
        acquired_train_index=(2 * round_, 2 * round_ + 1) if round_ else (),
        acquired_scores=(0.5, 0.25) if round_ else (),
        acquired_labels=(1, 0) if round_ else (),
        test_error=1 / (3 + round_ + config.repetition),
        weight_decay=3.5,
        weight_decay_tuned=False,
        seconds={"fit": 0.5},
        weights={"w": np.full(3, round_, np.float32)} if config.warm_start else None,
    )


def reread(result_dir: Path, config: RunConfig = CONFIG) -> RunFolder:
    folder = RunFolder(result_dir, config)
    folder.load()
    return folder


def test_rounds_are_read_back(tmp_path: Path) -> None:
    written = write_rounds(tmp_path, CONFIG, 4)
    folder = reread(tmp_path)
    assert folder.rounds == written.rounds
    assert folder.seconds == [{"round": round_, "fit": 0.5} for round_ in range(4)]
    assert folder.finished
    assert not folder.going
    np.testing.assert_array_equal(np.load(folder.path / "acquired.npy"), [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(np.load(folder.path / "test_error.npy"), [1 / 3, 1 / 4, 1 / 5, 1 / 6])


def test_file_names(tmp_path: Path) -> None:
    write_rounds(tmp_path, changed(learner="deterministic"), 4)
    write_curves(tmp_path, "bald-MC_dropout=False", 3)
    assert (tmp_path / "bald-MC_dropout=False.npy").exists()
    assert (tmp_path / "bald-MC_dropout=False-repetitions.npy").exists()
    assert (tmp_path / "runs" / "bald-MC_dropout=False" / "repetition_0" / "metrics.jsonl").exists()


def test_curves_are_the_mean_over_finished_repetitions(tmp_path: Path) -> None:
    for repetition, count in ((0, 4), (1, 6), (2, 2)):
        write_rounds(tmp_path, changed(repetition=repetition), count)
    write_curves(tmp_path, CONFIG.name, 3)
    repetitions = np.load(tmp_path / f"{CONFIG.name}-repetitions.npy")
    np.testing.assert_array_equal(repetitions, [[1 / 3, 1 / 4, 1 / 5, 1 / 6], [1 / 4, 1 / 5, 1 / 6, 1 / 7]])
    np.testing.assert_array_equal(np.load(tmp_path / f"{CONFIG.name}.npy"), repetitions.mean(axis=0))


def test_no_finished_repetition_gives_no_curve(tmp_path: Path) -> None:
    write_rounds(tmp_path, CONFIG, 2)
    assert write_curves(tmp_path, CONFIG.name, 3) is None
    assert finished_curves(tmp_path, CONFIG.name, 3) == {}
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("warm_start", [False, True])
def test_any_flipped_bit_and_any_cut_of_the_record_leaves_whole_rounds(tmp_path: Path, warm_start: bool) -> None:
    config = changed(warm_start=warm_start, rounds=5)
    path = write_rounds(tmp_path, config, 4).path / "metrics.jsonl"
    whole, rounds = path.read_bytes(), reread(tmp_path, config).rounds
    draw = random.Random(0)
    for number in range(300):
        broken = bytearray(whole)
        if number % 2:
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        else:
            del broken[draw.randrange(len(broken)) :]
        path.write_bytes(broken)
        found = reread(tmp_path, config).rounds
        assert found == rounds[: len(found)]
        assert len(found) < 4


def test_lines_in_another_order_are_damage(tmp_path: Path) -> None:
    path = write_rounds(tmp_path, CONFIG, 4).path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3], lines[2], lines[4]]))
    assert len(reread(tmp_path).rounds) == 1


def test_reading_writes_nothing_and_mending_keeps_the_damaged_file(tmp_path: Path) -> None:
    path = write_rounds(tmp_path, CONFIG, 4).path / "metrics.jsonl"
    damaged = path.read_bytes()[:-5]
    path.write_bytes(damaged)
    (path.parent / "test_error.npy").unlink()
    folder = reread(tmp_path)
    assert path.read_bytes() == damaged
    assert not (path.parent / "test_error.npy").exists()
    folder.mend()
    assert (path.parent / "metrics.jsonl.damaged").read_bytes() == damaged
    assert len(np.load(path.parent / "test_error.npy")) == 3
    assert reread(tmp_path).rounds == folder.rounds


def test_mending_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    config = changed(warm_start=True)
    folder = write_rounds(tmp_path, config, 3)
    before = sorted(folder.path.iterdir())
    (folder.path / "failure.json.tmp").touch()
    (folder.path / "weights-1.safetensors").touch()
    folder.mend()
    assert sorted(folder.path.iterdir()) == before


def test_weights_of_the_last_round(tmp_path: Path) -> None:
    config = changed(warm_start=True)
    folder = write_rounds(tmp_path, config, 3)
    assert [path.name for path in folder.path.glob("weights*")] == ["weights-2.safetensors"]
    weights = reread(tmp_path, config).weights()
    assert weights is not None
    np.testing.assert_array_equal(weights["w"], [2, 2, 2])
    (folder.path / "weights-2.safetensors").write_bytes(b"no weights")
    assert reread(tmp_path, config).rounds == []  # begins again
    write_rounds(tmp_path, config, 4)
    (folder.path / "weights-3.safetensors").unlink()
    assert reread(tmp_path, config).finished  # a finished run needs none


def test_a_failure_is_recorded_and_forgotten_by_the_next_session(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 2)
    assert folder.failure() is None
    folder.fail("no luck", "Traceback")
    assert folder.failure() == "no luck"
    content = (folder.path / "failure.json").read_text()
    (folder.path / "failure.json").write_text(content.replace("luck", "duck"))
    assert folder.failure() == "for a reason that can no longer be read"
    folder.begin_session({})
    assert folder.failure() is None


def test_sessions_and_their_events(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 2)
    folder.note("out of memory: 100 images a block")
    write_rounds(tmp_path, CONFIG, 3)
    path = folder.path / "provenance.json"
    event = {"round": 2, "event": "out of memory: 100 images a block"}
    first = {"first_round": 0, "threads": 1, "events": [event]}
    assert json.loads(path.read_text())["sessions"] == [first, {"first_round": 2, "threads": 1}]
    path.write_text(path.read_text().replace("100", "900"))
    folder.begin_session({"threads": 1})
    assert json.loads(path.read_text())["sessions"] == [{"first_round": 2, "threads": 1}]
    assert "900" in (folder.path / "provenance.json.damaged").read_text()


def test_provenance_without_a_seal_is_kept(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 1)
    path = folder.path / "provenance.json"
    path.write_text('{"sessions": [{"first_round": 0}]}')  # as the first version wrote it
    folder.begin_session({})
    assert len(json.loads(path.read_text())["sessions"]) == 2
    assert not (folder.path / "provenance.json.damaged").exists()


def test_a_folder_of_other_numbers_is_refused_by_the_fields_that_differ(tmp_path: Path) -> None:
    write_rounds(tmp_path, CONFIG, 1)
    check_result_dir(tmp_path, [changed(acquisition="uniform", repetition=4, rounds=50)])
    with pytest.raises(ConfigError) as refused:
        check_result_dir(tmp_path, [changed(seed=1, lr=0.1)])
    assert str(refused.value) == (
        f"--result_dir {tmp_path} holds runs of another configuration (seed is 369 there and 1 here, lr is 0.001 there "
        "and 0.1 here): give --seed 369 --lr 0.001 to continue them, or name another folder."
    )
    with pytest.raises(StoreError, match=f"another configuration: move it out of {tmp_path} to run this"):
        reread(tmp_path, changed(seed=1))
    assert len(RunFolder(tmp_path, changed(seed=1)).load(any_configuration=True)) == 1


def test_a_folder_of_other_numbers_is_refused_by_fields_that_it_has_at_their_defaults(tmp_path: Path) -> None:
    write_rounds(tmp_path, changed(equal_batches=True), 1)
    with pytest.raises(ConfigError) as refused:
        check_result_dir(tmp_path, [changed(equal_batches=True, min_steps=500, augment="affine", classes=(2, 8))])
    assert str(refused.value) == (
        f"--result_dir {tmp_path} holds runs of another configuration (classes is [] there and [2, 8] here, min_steps "
        "is 0 there and 500 here, augment is 'none' there and 'affine' here): give --classes all --min_steps 0 "
        "--augment none to continue them, or name another folder."
    )


@pytest.mark.parametrize("words", [
    ["--warm_start"], ["--classes", "2", "8"], ["--lr", "0.1"], ["--weight_decay", "3.5"], ["--augment", "flip"],
    ["--precision", "bfloat16"], ["--masks", "image"], ["--copies", "2"], ["--coldness", "1"], [],
    ["--initial_images", "5", "7"], ["--epoch_images", "90"],
])  # fmt: skip
@pytest.mark.parametrize(
    "others", [{"warm_start": [], "classes": ["1", "3"]}, {"threads": ["2"]}, {"initial_images": ["1"]}]
)
def test_what_a_refusal_says_to_type_is_taken(tmp_path: Path, words: list[str], others: dict[str, list[str]]) -> None:
    def runs(flags: dict[str, list[str]], *more: str) -> list[RunConfig]:
        words = [word for name, values in flags.items() for word in (f"--{name}", *values)]
        given = read_flags(["--acq_func", "power_bald", *words, *more])
        return planned_runs(given, "bfloat16" if given.precision == "bfloat16" else "float32", "cpu")

    write_rounds(tmp_path, runs({}, *words)[0], 1)
    with pytest.raises(ConfigError) as refused:
        check_result_dir(tmp_path, runs(others))
    advice = str(refused.value).partition("): ")[2].partition(" to continue")[0]
    give, _, leave_out = advice.partition("leave out ")
    kept = {name: values for name, values in others.items() if f"--{name}" not in leave_out}
    check_result_dir(tmp_path, runs(kept, *give.removeprefix("give ").removesuffix(" and ").split()))


@pytest.mark.parametrize(("held", "asked"), [
    ("", "--mbr --classes 2 8"),
    ("--classes 2 8 --warm_start", "--mbr --classes 2 8"),
    ("--val_size 0 --weight_decay 1", "--weight_decay 1 --mbr_sigma tune --mbr --classes 2 8"),
])  # fmt: skip
def test_a_refusal_advises_nothing_that_the_arms_asked_for_do_not_allow(tmp_path: Path, held: str, asked: str) -> None:
    def runs(words: str) -> tuple[ExperimentConfig, list[RunConfig]]:
        config = read_flags(words.split())
        return config, planned_runs(config, "float32", "cpu")

    write_rounds(tmp_path, runs(held)[1][0], 1)
    config, wanted = runs(asked)
    with pytest.raises(ConfigError, match=r"\): name another folder\.$"):
        check_result_dir(tmp_path, wanted, asked=config)


def test_a_folder_of_ragged_batches_is_refused_as_what_no_setting_brings_back(tmp_path: Path) -> None:
    write_rounds(tmp_path, CONFIG, 1)
    with pytest.raises(ConfigError) as refused:
        check_result_dir(tmp_path, [changed(equal_batches=True, min_steps=500)])
    assert str(refused.value) == (
        f"--result_dir {tmp_path} holds runs of an earlier version, whose training cut its batches otherwise: name "
        f"another folder to run these settings; python3 main.py report {tmp_path} still reads that one."
    )


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


HOLD = "import sys; from active_learning.disk.files import locked; from pathlib import Path\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_a_held_folder_says_who_holds_it_and_kill_frees_it(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert is_held(tmp_path / ".lock")
        with pytest.raises(StoreError, match=f"is in use by process {other.pid} on "), locked(tmp_path):
            pass
        other.kill()
        other.wait()
    assert not is_held(tmp_path / ".lock")
    with locked(tmp_path) as holder:
        assert (tmp_path / ".lock_holder").read_text() == holder
    assert not (tmp_path / ".lock_holder").exists()


@pytest.mark.parametrize("name", [".", "new", "new/folder"])
def test_a_folder_that_nothing_was_run_in_is_left_as_it_was(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="refused"), locked(tmp_path / name):
        raise ConfigError("refused")
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / name):
        (tmp_path / name / "result").touch()
    assert {path.name for path in (tmp_path / name).iterdir()} == {".lock", "result"}


def test_a_folder_that_cannot_be_looked_into_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "stat", denied)  # root may look everywhere
    with (
        pytest.raises(ConfigError, match=r"cannot be written to \(Permission denied\): name another"),
        locked(tmp_path),
    ):
        pass


def test_a_run_waits_for_the_process_that_executes_it(tmp_path: Path) -> None:
    class GiveUpError(Exception):
        pass

    def check() -> None:
        raise GiveUpError

    folder = RunFolder(tmp_path, CONFIG)
    with folder.locked():
        assert folder.going
        with pytest.raises(GiveUpError), RunFolder(tmp_path, CONFIG).locked(check):
            pass
    assert not folder.going


def test_what_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"file/results cannot be written to \(Not a directory\)"),
        locked(tmp_path / "file" / "results"),
    ):
        pass


def test_only_the_next_round_is_appended(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 2)
    before = (folder.path / "metrics.jsonl").read_bytes()
    for round_ in (1, 3):
        with pytest.raises(StoreError, match=f"has 2 rounds, and round {round_} cannot follow them"):
            folder.append(folder.rounds[1].model_copy(update={"round": round_}))
    assert (folder.path / "metrics.jsonl").read_bytes() == before


def test_a_record_is_cut_where_its_rounds_do_not_follow_each_other(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 3)
    rounds = [*folder.rounds[:2], *folder.rounds[:2]]  # as if what came back had been appended unseen
    (folder.path / "metrics.jsonl").write_bytes(record_lines(CONFIG.identity(), rounds, False))
    loaded = reread(tmp_path)
    assert [round_.round for round_ in loaded.rounds] == [0, 1]
    assert (
        loaded.complaint == "metrics.jsonl (round 2 has 0 images, 0 scores, 0 labels) damaged, 2 whole rounds are kept"
    )
    loaded.mend()
    assert [round_.round for round_ in reread(tmp_path).rounds] == [0, 1]
    assert reread(tmp_path).complaint is None


@pytest.mark.parametrize("configuration", [5, None, {"classes": 5}, {"classes": "28"}])
def test_a_record_of_a_configuration_that_is_none_is_damage(tmp_path: Path, configuration: object) -> None:
    folder = write_rounds(tmp_path, CONFIG, 3)
    rows = [{"configuration": configuration}, *(round_.row() for round_ in folder.rounds)]
    (folder.path / "metrics.jsonl").write_bytes(chain(rows))
    check_result_dir(tmp_path, [CONFIG])
    assert finished_curves(tmp_path, CONFIG.name, 1) == {}
    loaded = reread(tmp_path)
    assert (loaded.rounds, loaded.damaged) == ([], [folder.path / "metrics.jsonl"])


@pytest.mark.parametrize(("source", "target"), [("seconds", "metrics"), ("metrics", "seconds")])
def test_a_file_in_place_of_another_is_damage(tmp_path: Path, source: str, target: str) -> None:
    path = write_rounds(tmp_path, CONFIG, 3).path
    (path / f"{target}.jsonl").write_bytes((path / f"{source}.jsonl").read_bytes())
    check_result_dir(tmp_path, [CONFIG])
    folder = reread(tmp_path)
    assert folder.damaged == [path / f"{target}.jsonl"]
    assert folder.rounds == [] if target == "metrics" else folder.seconds == [{}, {}, {}]
    folder.mend()
    assert (path / f"{target}.jsonl.damaged").exists()
    assert reread(tmp_path).damaged == []


def test_sealed_files_of_another_kind_are_damage(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 1)
    folder.fail("no luck")
    provenance, failure = folder.path / "provenance.json", folder.path / "failure.json"
    for content in (b"[]", b"3", b"[" * 100_000, failure.read_bytes()):
        provenance.write_bytes(content)
        assert read_sealed(provenance, {"sessions"}) is None
    folder.begin_session({"threads": 1})
    assert (folder.path / "provenance.json.damaged").exists()


def test_side_files_of_a_finished_run_are_mended_too(tmp_path: Path) -> None:
    """No session begins on it any more, and its report would name them for ever."""
    folder = write_rounds(tmp_path, CONFIG, CONFIG.rounds + 1)
    provenance, failure = folder.path / "provenance.json", folder.path / "failure.json"
    provenance.write_text("{")
    failure.write_text("{")
    folder = reread(tmp_path)
    assert folder.complaint == "provenance.json damaged, 4 whole rounds are kept"
    folder.mend()
    assert (provenance.exists(), failure.exists()) == (False, False)
    assert provenance.with_name("provenance.json.damaged").read_text() == "{"
    assert reread(tmp_path).damaged == []


def test_damaged_weights_of_a_finished_run_are_taken_away(tmp_path: Path) -> None:
    config = changed(warm_start=True)
    folder = write_rounds(tmp_path, config, config.rounds)
    last = make_round(config, config.rounds).model_copy(update={"weights": {"layer": np.ones(3, np.float32)}})
    with folder.locked():
        folder.append(last)
    (weights,) = folder.path.glob("weights-*.safetensors")
    folder.mend()
    assert weights.exists()
    weights.write_bytes(b"others")
    folder.mend()
    assert not weights.exists()


def test_a_run_that_was_renamed_is_left_alone(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 4)
    folder.path.rename(folder.path.with_name("repetition_0.old"))
    check_result_dir(tmp_path, [changed(seed=1)])
    assert write_curves(tmp_path, CONFIG.name, 3) is None


def test_a_copy_of_a_run_is_no_repetition(tmp_path: Path) -> None:
    folder = write_rounds(tmp_path, CONFIG, 4)
    copy = folder.path.with_name("repetition_1")
    shutil.copytree(folder.path, copy)
    assert list(finished_curves(tmp_path, CONFIG.name, 3)) == [0]
    with pytest.raises(StoreError, match=rf"of another run, such as a copy would: move it out of {tmp_path}\.$"):
        check_result_dir(tmp_path, [CONFIG])
    shutil.rmtree(copy)
    shutil.copytree(folder.path, tmp_path / "runs" / "uniform-MC_dropout=True" / "repetition_0")
    assert finished_curves(tmp_path, "uniform-MC_dropout=True", 3) == {}


def test_the_holder_may_end_while_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> str:
        raise FileNotFoundError

    with locked(tmp_path), monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", end)
        with pytest.raises(StoreError, match="is in use by another process"), locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_is_read_only_is_no_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(StoreError, match="is read-only"), locked(tmp_path):
        pass


def test_a_folder_whose_holder_cannot_be_written_is_read_only_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path):
        pass
    (tmp_path / "kept").touch()

    def refuse(path: Path, _: bytes) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("active_learning.disk.files.write_atomically", refuse)
        with pytest.raises(StoreError, match="is read-only"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_what_cannot_be_written_is_named_without_words_of_python(tmp_path: Path) -> None:
    (tmp_path / "to nowhere").symlink_to(tmp_path / "none")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.npy")
    assert refusal(full) == "there is no room to write x.npy (No space left on device)"
    with pytest.raises(FileExistsError) as caught:
        make_folder(tmp_path / "to nowhere" / "inside")
    assert refusal(caught.value) == f"{tmp_path / 'to nowhere'} is a link that leads nowhere: move it away"
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_bytes()
    assert refusal(missing.value) == f"{tmp_path / 'none'}: No such file or directory"


def test_a_write_that_fails_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "a.json", b"{}")
    assert str(tmp_path / "a.json") in refusal(caught.value)
    assert not list(tmp_path.iterdir())


def test_damage_after_damage_is_kept_too(tmp_path: Path) -> None:
    contents = [b"first", b"second", b"second"]
    for content in contents:
        run = write_rounds(tmp_path, CONFIG, 1)
        (run.path / "metrics.jsonl").write_bytes(content)
        run.load()
        run.mend()
    kept = {path.name: path.read_bytes() for path in run.path.glob("*.damaged")}
    assert kept == {"metrics.jsonl.damaged": b"first", "metrics.jsonl.2.damaged": b"second"}


def without_sync(monkeypatch: pytest.MonkeyPatch, where: str, number: int) -> None:
    """Let the calls that put a folder, or anything, on disk fail as other systems' do."""
    monkeypatch.setenv("DBAL_NO_FSYNC_TOLD", "")
    fsync, open_ = os.fsync, os.open

    def failing_sync(descriptor: int) -> None:
        if where == "fsync of all" or (where == "fsync" and stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    def failing_open(path: Any, flags: int, *others: Any, **more: Any) -> int:
        if where == "open" and Path(path).is_dir():
            raise OSError(number, os.strerror(number), str(path))
        return open_(path, flags, *others, **more)

    monkeypatch.setattr(os, "fsync", failing_sync)
    monkeypatch.setattr(os, "open", failing_open)


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("open", errno.EACCES),  # Windows
        ("open", errno.EISDIR),
        ("fsync", errno.EINVAL),  # VirtualBox's shared folders, CIFS
        ("fsync", errno.ENOTSUP),
        ("fsync", errno.ENOSYS),  # FUSE
        ("fsync", errno.EACCES),
        ("fsync", errno.EPERM),
        ("fsync", errno.EBADF),
        ("fsync of all", errno.EINVAL),
        ("fsync of all", errno.ENOSYS),
    ],
)
def test_a_system_that_cannot_sync_is_worked_on_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, number: int
) -> None:
    without_sync(monkeypatch, where, number)
    with locked(tmp_path / "results"):
        write_rounds(tmp_path / "results", CONFIG, 4)
    assert reread(tmp_path / "results").finished
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"this system does not put files on disk at once ({os.strerror(number)}): after a power cut" in told


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "fsync of all", "open"])
def test_a_disk_that_fails_is_not_taken_for_one_that_cannot_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    without_sync(monkeypatch, where, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(tmp_path / "file", b"content")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_must_not_be_synced_is_no_lack_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_sync(monkeypatch, "fsync of all", number)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "file", b"content")


@pytest.mark.parametrize(
    ("call", "number", "kind", "told"),
    [
        (
            "os.open",
            errno.EMFILE,
            StoreError,
            "cannot be used .*: close some programs, or raise the limit with `ulimit",
        ),
        ("os.open", errno.ENFILE, StoreError, "cannot be used .*: close some programs, and give the command again"),
        ("fcntl.flock", errno.ENOLCK, ConfigError, r"file system without locks \(.*\): name one on another\.$"),
        ("fcntl.flock", errno.ENOSYS, ConfigError, r"file system without locks \(.*\): name one on another\.$"),
    ],
)
def test_a_lock_that_cannot_be_had_is_told_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[Exception], told: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(call, MagicMock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(kind, match=told), locked(tmp_path / "made"):
            pass
    assert not (tmp_path / "made").exists()


def test_a_lock_that_cannot_be_asked_for_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    (tmp_path / ".lock").touch()
    monkeypatch.setattr("active_learning.disk.files.lock_descriptor", unknown)
    assert not is_held(tmp_path / ".lock")


def test_a_holder_in_another_encoding_is_named_all_the_same(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock_holder").write_bytes("process 3 on Bücher".encode("latin-1"))
        with pytest.raises(StoreError, match="is in use by process 3 on B"), locked(tmp_path):
            pass
