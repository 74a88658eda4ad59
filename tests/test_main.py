"""The command line: what it refuses, what it prints, what it leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from active_learning.disk.files import refusal
from active_learning.disk.renumber import main as renumber
from active_learning.report.command import main as report
from active_learning.report.results import read_results
from active_learning.settings.config import ConfigError, ExperimentConfig
from active_learning.settings.flags import read_flags
from main import main
from tests.conftest import EMBEDDED, ROOT, Tiny
from tests.result_folders import run_config, write_run

BAD_CONFIGS = {
    "unknown_key.yaml": "epocs: 5",
    "unknown_value.yaml": "acq_func: entropie",
    "nul.yaml": 'result_dir: "a\\0b"',
    "half.yaml": 'result_dir: "\\ud800"',
    "of_files.yaml": "config: other.yaml",
    "a_list_of_names.yaml": "[epochs, lr]: 3",
    "object.yaml": "lr: !!python/object/apply:os.mkdir ['sprung']",
    "not_yaml.yaml": "lr: [",
    "a_list.yaml": "- 1",
    "empty.yaml": "",
    "traversal.yaml": "../seed: 3",
    "nan.yaml": "lr: .nan",
    "infinite.yaml": "weight_decay: .inf",
    "wrong_kind.yaml": "epochs: many",
    "a_function.yaml": "acq_func: [bald]",
}

BAD_INPUTS = {
    "--rounds 1.5": "--rounds '1.5' is not allowed: it takes a whole number, for example 100.",
    "--lr x": "--lr 'x' is not allowed: it takes a number, for example 0.002.",
    "--lr nan": "--lr 'nan' is not allowed: it takes a number, for example 0.002.",
    "--lr 0": "--lr 0.0 is not allowed: it takes a number above 0 and at most 1e+30, such as 1e-3.",
    "--epochs -3": "--epochs -3 is not allowed: it takes a number of at least 1.",
    "--min_steps -1": "--min_steps -1 is not allowed: it takes a number of at least 0.",
    "--min_steps many": "--min_steps 'many' is not allowed: it takes a whole number, for example 500.",
    "--lr_schedule linear": "--lr_schedule 'linear' is not allowed: it takes constant or cosine or warmup_cosine, for "
    "example cosine.",
    "--stopping loss": "--stopping 'loss' is not allowed: it takes none or validation or validation_accuracy, for "
    "example none.",
    **{
        f"--stopping {rule} --val_size 0 --weight_decay 0": "--val_size 0 leaves nothing to stop a fit by: leave out "
        f"--stopping {rule}."
        for rule in ("validation", "validation_accuracy")
    },
    "--epoch_images -1": "--epoch_images -1 is not allowed: it takes a number from 0 to 100000.",
    **{
        f"--initial_images {images}": f"--initial_images {images} is not allowed: it takes different numbers from 0 to "
        "59999, or drawn."
        for images in ("3 3", "0 60000", "4 -1")
    },
    "--initial_images x": "--initial_images 'x' is not allowed: it takes whole numbers, for example 0 1, or drawn.",
    "--initial_images 1 drawn": "--initial_images 'drawn' is not allowed: it takes whole numbers, for example 0 1, or "
    "drawn.",
    "--initial_images": "--initial_images is given without its value: it takes whole numbers, for example 0 1, or "
    "drawn.",
    **{
        f"--initial_images 1 2 --{other}": f"--initial_images 1 2 does not go with --{other.split()[0]}: leave one of "
        "the two out, or give --initial_images drawn."
        for other in ("classes 2 8", "initial_per_class 3", "imbalance 1 1 1 1 1 1 1 1 1 0")
    },
    "--initial_images 1 2 --val_size 58999": "--initial_images 1 2 names 2 of the 60000 training images of mnist, and "
    "59999 are needed to validate and to choose from: name fewer, or give a smaller --val_size or fewer --rounds.",
    f"--dataset mnist_5k --rounds 0 --val_size 3979 --initial_images {' '.join(map(str, range(21)))}": (
        f"--initial_images {' '.join(map(str, range(20)))} ... names 21 of the 4000 training images of mnist_5k, and "
        "3980 are needed to validate and to choose from: name fewer, or give a smaller --val_size or fewer --rounds."
    ),
    "--initial_images 1 --dataset folder:images": "--initial_images is for data sets whose images have numbers, and "
    "those of folder:images have names: leave it out, or give --initial_images drawn.",
    "--classes x": "--classes 'x' is not allowed: it takes labels, for example 0 1, or all.",
    "--augment rotate": "--augment 'rotate' is not allowed: it takes none or affine or elastic or flip, for example "
    "none.",
    "--augment affine --augment_strength 0": "--augment_strength 0.0 is not allowed: it takes a number above 0 and "
    "at most 3, such as 0.5.",
    "--augment affine --augment_strength -1": "--augment_strength -1.0 is not allowed: it takes a number above 0 and "
    "at most 3, such as 0.5.",
    "--augment affine --augment_strength 4": "--augment_strength 4.0 is not allowed: it takes a number above 0 and "
    "at most 3, such as 0.5.",
    "--augment affine --augment_strength nan": "--augment_strength 'nan' is not allowed: it takes a number, for "
    "example 1.0.",
    "--augment_strength 2": "--augment_strength 2.0 changes no run by itself: add --augment affine, say.",
    "--augment none --augment_strength 2": "--augment_strength 2.0 changes no run by itself: add --augment affine, "
    "say.",
    "--initialisation he": "--initialisation 'he' is not allowed: it takes glorot or torch, for example glorot.",
    "--masks none": "--masks 'none' is not allowed: it takes pass or image, for example pass.",
    "--coldness 2": "--coldness 2.0 changes no run without --acq_func power_bald or softmax_bald or softrank_bald: add "
    "that, or leave it out.",
    "--acq_func power_bald --coldness -1": "--coldness -1.0 is not allowed: it takes a number from 0 to 100000.",
    "--acq_func batch_bald --determ": "--acq_func batch_bald needs samples, which the learner deterministic does not "
    "give: leave --determ out, or take another function.",
    "--acq_func batch_bald --learner deterministic": "--acq_func batch_bald needs samples, which the learner "
    "deterministic does not give: take --learner bayesian, or take another function.",
    "--lr -1e-3": "--lr -0.001 is not allowed: it takes a number above 0 and at most 1e+30, such as 1e-3.",
    "--lr 1e400": "--lr inf is not allowed: it takes a number above 0 and at most 1e+30, such as 1e-3.",
    "--experiments 100000000": "--experiments 100000000 is not allowed: it takes a number from 1 to 10000.",
    "--weight_decay 1e300": "--weight_decay 1e+300 is not allowed: it takes a number from 0 to 100000.",
    "--weight_decay -1e-3": "--weight_decay -0.001 is not allowed: it takes a number from 0 to 100000.",
    "--config a_function.yaml stray": "'stray' belongs to no flag: write --NAME VALUE; only --determ, --mbr, "
    "--warm_start, --status, --quiet, --json stand alone, without a value, and run, status, report or rank come first.",
    "--acq_func bald --config a_function.yaml uniform": "'uniform' belongs to no flag: write --NAME VALUE; only "
    "--determ, --mbr, --warm_start, --status, --quiet, --json stand alone, without a value, and run, status, report "
    "or rank come first.",
    "--acq_func epig --masks image": "--acq_func epig needs passes that are posterior samples, which --masks image "
    "gives none of: take --masks pass.",
    "--query 0": "--query 0 is not allowed: it takes a number of at least 1.",
    "--seed -1": "--seed -1 is not allowed: it takes a number of at least 0.",
    "--weight_decay -1": "--weight_decay -1.0 is not allowed: it takes a number from 0 to 100000.",
    "--weight_decay tun": "--weight_decay 'tun' is not allowed: it takes a number or tune, for example tune.",
    "--precision half": "--precision 'half' is not allowed: it takes auto or float32 or bfloat16, for example auto.",
    "--dataset mnist5k": "--dataset 'mnist5k' is not known (did you mean 'mnist_5k'?): choose one of mnist, mnist_5k, "
    "fashion_mnist, kmnist, emnist_balanced, cifar10, svhn, folder:PATH.",
    "--dataset ../mnist": "--dataset '../mnist' is not known (did you mean 'mnist'?): choose one of mnist, mnist_5k, "
    "fashion_mnist, kmnist, emnist_balanced, cifar10, svhn, folder:PATH.",
    "--acq_func bal": "--acq_func: unknown acquisition function 'bal' (did you mean 'bald'?); known codes and names: 0 "
    "(every code), 1 uniform, 2 max_entropy, 3 bald, 4 var_ratios, 5 mean_std, var_ratios_mean, mbr, margin, "
    "least_confidence, power_bald, softmax_bald, softrank_bald, batch_bald, epig, badge, core_set.",
    "--acq_func ../bald": "--acq_func: unknown acquisition function '../bald' (did you mean 'bald'?); known codes and "
    "names: 0 (every code), 1 uniform, 2 max_entropy, 3 bald, 4 var_ratios, 5 mean_std, var_ratios_mean, mbr, margin, "
    "least_confidence, power_bald, softmax_bald, softrank_bald, batch_bald, epig, badge, core_set.",
    "--determ true": "'true' belongs to no flag: write --NAME VALUE; only --determ, --mbr, --warm_start, --status, "
    "--quiet, --json stand alone, without a value, and run, status, report or rank come first.",
    "--determ=true": "--determ='true' is not allowed: --determ is a switch and stands alone, without a value.",
    "--seed": "--seed is given without its value: it takes a whole number, for example 369.",
    "--roundz 3": "'roundz' is not a setting: did you mean 'rounds'?",
    "--pool-subset 3": "'pool-subset' is not a setting: did you mean 'pool_subset'?",
    "--batch 3": "'batch' is not a setting: did you mean 'batch_size'?",
    "--query 600 --rounds 100": "--query 600 x --rounds 100 = 60000 images are more than the pool of 59880 that mnist "
    "leaves: lower one of them.",
    "--val_size 59980": "--val_size 59980 is too large: mnist has 60000 training images, 20 of them labelled at the "
    "start, and 1000 are to be acquired: give at most 58980.",
    "--val_size 0": "--val_size 0 leaves nothing to tune the weight decay on: give --weight_decay a number.",
    "--pool_subset 5": "--pool_subset 5 is smaller than --query 10: score at least as many images as are labelled a "
    "round, or 0 for the whole pool.",
    **{
        f"--scheduler {address}": f"--scheduler '{address}' is not an address: write tcp://HOST:PORT, the port a "
        "number from 1 to 65535."
        for address in ("here", "tcp://:8786", "tcp://h:99999", "tcp://h:0", "tcp://[::1:1", "tcp://h:1/", "http://h:1")
    },
    "--scheduler tcp://h:1 --jobs 2": "--jobs 2 is for runs on this machine, and the workers of --scheduler tcp://h:1 "
    "are as many as that cluster has: leave one of the two out.",
    "--": "'--' belongs to no flag: write --NAME VALUE; only --determ, --mbr, --warm_start, --status, --quiet, --json "
    "stand alone, without a value, and run, status, report or rank come first.",
    **dict.fromkeys(["b" * 300, f"--dataset folder:{'b' * 300}", f"--result_dir {'b' * 300}"]),
    "--config nul.yaml": r"--result_dir 'a\x00b' is not allowed: it takes a path, for example result_npy/mine.",
    "--config half.yaml": r"--result_dir '\ud800' is not allowed: it takes a path, for example result_npy/mine.",
    "--status --result_dir empty.yaml/inside": "--result_dir empty.yaml/inside is not a folder: name another.",
    "--lr 1e31": "--lr 1e+31 is not allowed: it takes a number above 0 and at most 1e+30, such as 1e-3.",
    "--dropout_iter 9999999": "--dropout_iter 9999999 is not allowed: it takes a number from 1 to 100000.",
    "--print_completion nush": "--print_completion nush is not allowed: choose one of bash, zsh, tcsh, fish, "
    "powershell.",
    "--print_completion": None,
    "--print_completion=": None,
    "--classes 2": "--classes 2 is not allowed: it takes two or more different labels of 0 to 9, such as 2 8.",
    "--classes 2 2": "--classes 2 2 is not allowed: it takes two or more different labels of 0 to 9, such as 2 8.",
    "--classes 2 10": "--classes 2 10 is not allowed: it takes two or more different labels of 0 to 9, such as 2 8.",
    "--classes two": None,
    "--initial_per_class 0": "--initial_per_class 0 is not allowed: it takes a number of at least 1.",
    "--initial_per_class 5422": "--initial_per_class 5422 is too large: mnist has 5421 training images of its smallest "
    "class, and 1100 are needed to validate and to choose from; give at most 5421.",
    "--dataset mnist_5k --initial_per_class 400": "--initial_per_class 400 is too large: mnist_5k has 400 training "
    "images of its smallest class, and 1100 are needed to validate and to choose from; give at most 290.",
    "--dataset mnist_5k --initial_per_class 400 --val_size 3995": "--initial_per_class 400 is too large: mnist_5k has "
    "400 training images of its smallest class, and 4995 are needed to validate and to choose from; give a smaller "
    "one, and a smaller --val_size, or fewer --rounds.",
    "--dataset mnist_5k --classes 2 8 --initial_per_class 380": "--val_size 100 is too large: mnist_5k has 800 "
    "training images, 760 of them labelled at the start, and 1000 are to be acquired: give fewer, and fewer --rounds "
    "than 100.",
    "--dataset mnist_5k --classes 2 8 --imbalance 0 0 --rounds 0": "--imbalance 0.0 0.0 leaves nothing of mnist_5k to "
    "choose from: give larger shares.",
    "--mbr": "--mbr tells two classes apart, and these are 10: add --classes 2 8, say.",
    "--mbr --classes 1 2 3": "--mbr tells two classes apart, and these are 3: add --classes 2 8, say.",
    "--learner field --acq_func uniform": "--learner field tells two classes apart, and these are 10: add --classes 2 "
    "8, say.",
    "--acq_func mbr --classes 2 8 --warm_start": "--warm_start carries a network's weights over, and --acq_func mbr "
    "has none: leave one out.",
    "--mbr --classes 2 8 --val_size 20000": "--val_size 20000 is too large: mnist has 11809 training images, 4 of them "
    "labelled at the start, and 1000 are to be acquired: give at most 10805.",
    "--mbr_sigma 760": "--mbr_sigma 760.0 changes no run without --mbr or --acq_func mbr: add that, or leave it out.",
    "--mbr --classes 2 8 --warm_start": "--warm_start carries a network's weights over, and --mbr has none: leave one "
    "out.",
    **{
        f"--mbr --classes 2 8 --mbr_sigma {sigma}": f"--mbr_sigma {sigma} is not allowed: for pixels of 0 to 255 it "
        "takes a number from 0.001 to 1000000, such as 380, or tune."
        for sigma in ("1e-300", "1e+300", "0.0009", "1000001.0")
    },
    "--mbr --classes 2 8 --mbr_sigma nan": "--mbr_sigma 'nan' is not allowed: it takes a number or tune, for example "
    "380.0.",
    "--mbr --classes 2 8 --mbr_sigma .inf": "--mbr_sigma '.inf' is not allowed: it takes a number or tune, for "
    "example 380.0.",
    "--mbr --classes 2 8 --mbr_sigma 0": "--mbr_sigma 0.0 is not allowed: for pixels of 0 to 255 it takes a "
    "number from 0.001 to 1000000, such as 380, or tune.",
    "--mbr --classes 2 8 --mbr_sigma tune --val_size 0 --weight_decay 0": "--val_size 0 leaves nothing to tune the "
    "length scale on: give --mbr_sigma a number.",
    "--mbr --classes 2 8 --mbr_neighbours 11709": "--mbr_neighbours 11709 is too large: the graph has 11709 images; "
    "give at most 11708, or 0 for all.",
    "--val_size 11805 --classes 2 8": "--val_size 11805 is too large: mnist has 11809 training images, 4 of them "
    "labelled at the start, and 1000 are to be acquired: give at most 10805.",
    "--status --json": "--status prints a table and nothing else: leave out --quiet and --json.",
    "--result_dir unknown_key.yaml/results": "--result_dir unknown_key.yaml/results cannot be written to (Not a "
    "directory): name another.",
    "--result_dir /proc/results": None,
    "--config missing.yaml": None,
    "--config unknown_key.yaml": "--config unknown_key.yaml: 'epocs' is not a setting: did you mean 'epochs'?",
    "--config of_files.yaml": "--config of_files.yaml: 'config' is for the command line alone: leave it out of "
    "the file.",
    "--config a_list_of_names.yaml": "--config a_list_of_names.yaml: '[...]' is not a setting: main.py --help lists "
    "them all.",
    "--rounds 3 .": "'.' belongs to no flag: if it is a result folder, give --result_dir . instead.",
    "--config wrong_kind.yaml": "--epochs 'many' is not allowed: it takes a whole number, for example 30.",
    "--config nan.yaml": "--lr '.nan' is not allowed: it takes a number, for example 0.002.",
    "--config infinite.yaml": "--weight_decay '.inf' is not allowed: it takes a number or tune, for example tune.",
    "--config unknown_value.yaml": None,
    "--config object.yaml": None,
    "--config not_yaml.yaml": None,
    "--config a_list.yaml": None,
    "--config empty.yaml": None,
    "--config traversal.yaml": None,
}

CODE = """
import contextlib, io, json, sys
from main import main
answers = {}
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = main(command.split())
    answers[command] = code, stderr.getvalue()
print(json.dumps({"answers": answers, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All bad inputs given to one process that has loaded nothing else."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in BAD_CONFIGS.items():
        (folder / name).write_text(content)
    command = [sys.executable, "-c", CODE, json.dumps(list(BAD_INPUTS))]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=folder, env={"PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted(BAD_CONFIGS)
    answers: dict[str, object] = json.loads(ended.stdout)
    return answers


@pytest.mark.parametrize("command", BAD_INPUTS)
def test_bad_input_is_refused_in_one_sentence(refusals: dict[str, dict[str, tuple[int, str]]], command: str) -> None:
    code, printed = refusals["answers"][command]
    assert code == 2
    assert printed.startswith("main.py: error: ")
    assert printed.count("\n") == 1
    expected = BAD_INPUTS[command]
    if expected is not None:
        assert printed == f"main.py: error: {expected}\n"


def test_bad_input_is_refused_before_anything_slow_is_imported(refusals: dict[str, list[str]]) -> None:
    assert not {"torch", "skorch", "sklearn", "distributed", "matplotlib", "mlxtend"} & set(refusals["loaded"])


def test_the_command_of_the_original_program() -> None:
    command = (
        "--batch_size 128 --epochs 50 --lr 1e-3 --seed 369 --experiments 3 --dropout_iter 100 --query 10 --acq_func 0 "
        "--val_size 100 --result_dir result_npy"
    )
    config = read_flags(command.split())
    assert config.acquisitions == ExperimentConfig().acquisitions
    training = {"batch_size": 128, "epochs": 50, "lr": 1e-3}  # where the defaults have become others
    changed = {**training, "result_dir": Path("result_npy")}
    assert {**vars(config), "acq_func": (0,)} == {**vars(ExperimentConfig()), **changed}


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ("", "mnist"),
        ("--rounds 3 --experiments 1 --acq_func bald --determ --jobs 2 --data_dir data", "mnist"),
        ("--dataset mnist_5k --epochs 2", "mnist_5k-epochs=2"),
        ("--classes 2 8 --mbr --mbr_sigma tune", "mnist-classes=2_8-mbr_sigma=tune"),
        ("--lr 1e-2 --warm_start", "mnist-lr=0.01-warm_start"),
        ("--lr 2e-3 --precision auto", "mnist"),
    ],
)
def test_the_folder_follows_from_what_is_run(flags: str, folder: str) -> None:
    assert read_flags(flags.split()).result_dir == Path("result_npy") / folder


def test_a_trial_run_blocks_no_other(
    tiny_main: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (("--rounds", "0"), ("--rounds", "0", "--lr", "0.1"), ()):
        assert tiny_main("--experiments", "1", "--acq_func", "uniform", *flags) == 0
    assert len(list(tmp_path.glob("result_npy/*/runs"))) == 2
    capsys.readouterr()
    assert tiny_main("--experiments", "1", "--acq_func", "uniform", "--status") == 0
    assert "1 done" in capsys.readouterr().out
    assert tiny_main("--experiments", "1", "--status", "--lr", "0.2") == 0
    others = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.glob("result_npy/*"))]
    assert f"is not there: there are {' and '.join(others)} (--result_dir)." in capsys.readouterr().out
    assert main(["report"]) == 2
    assert f"name one, such as {others[0]}" in capsys.readouterr().err


def test_no_flags_are_the_defaults() -> None:
    assert read_flags([]) == ExperimentConfig()


@pytest.mark.parametrize("text", ["acq_func: bald", "acq_func: 3", "acq_func: [3]", "acq_func: [bald]"])
def test_one_acquisition_function_in_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert read_flags(["--config", str(tmp_path / "config.yaml")]).acquisitions == ("bald",)


def test_printed_configuration_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--acq_func",
        "3",
        "uniform",
        "--determ",
        "--classes",
        "2",
        "8",
        "--mbr",
        "--mbr_sigma",
        "tune",
        "--weight_decay",
        "3.5",
        "--data_dir",
        "data",
        "--lr",
        "0.01",
    ]
    assert main([*flags, "--print_config"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert read_flags(["--config", str(tmp_path / "config.yaml")]) == read_flags(flags)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--dro", "--dropout_iter"),
        ("--precision fl", "float32"),
        ("--mbr_s", "--mbr_sigma"),
        ("--dataset mnist_", "mnist_5k"),
        ("--dataset fo", "folder:"),
        ("ra", "rank"),
        ("rank --labe", "--labels"),
        ("rank --export lab", "label_studio"),
        ("rank --mbr_s", ""),
        ("status --mbr_s", "--mbr_sigma"),
        ("--acq_func bal", "bald"),
    ],
)
def test_the_shell_completes_flags_and_their_choices(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, expected: str
) -> None:
    assert main(["--print_completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    typed = ["main.py", *words.split()]
    ask = f"COMP_WORDS=({' '.join(typed)}) COMP_CWORD={len(typed) - 1}; _shtab_main_py main.py {typed[-1]} {typed[-2]}"
    command = f'source {script}; {ask}; echo "${{COMPREPLY[@]}}"'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == (f"{expected}\n", "")


def test_a_flag_after_the_file_wins(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 5\nrounds: 7\n")
    config = read_flags(["--config", str(tmp_path / "config.yaml"), "--rounds", "9"])
    assert (config.epochs, config.rounds) == (5, 9)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--{name} " in printed or f"--{name}]" in printed for name in vars(ExperimentConfig()))


def test_main_is_short_and_light() -> None:
    assert len((ROOT / "main.py").read_text().splitlines()) <= 80


def test_embedded_data_end_to_end(embedded_run: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    folder, ended = embedded_run
    assert ended.returncode == 0, ended.stderr
    assert "BALD" in ended.stdout
    assert f"Page: {folder}/report/index.html\n" in ended.stdout
    page = (folder / "report" / "index.html").read_text()
    assert page.count("<img src=") == 2 * 2 * 10 + page.count("<picture>")  # arms, rounds, images
    assert "\x1b" not in ended.stdout + ended.stderr  # no terminal, no colours
    assert "Traceback" not in ended.stderr
    assert {path.name for path in folder.glob("*.npy")} == {
        f"{name}{what}.npy"
        for name in ("bald-MC_dropout=True", "bald-MC_dropout=False")
        for what in ("", "-repetitions")
    }
    for path in folder.glob("*-repetitions.npy"):
        repetitions = np.load(path, allow_pickle=False)
        mean = np.load(folder / path.name.replace("-repetitions", ""), allow_pickle=False)
        assert repetitions.shape == (2, 3)
        assert ((repetitions >= 0) & (repetitions <= 1)).all()
        np.testing.assert_array_equal(mean, repetitions.mean(axis=0))


def test_json_is_one_document_with_numbers_and_paths(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {entry["arm"] for entry in document["statistics"]} == {"Random", "BALD"}
    assert document["paths"]["report"] == str(tmp_path / "report" / "index.html")
    assert sorted(document["paths"]["curves"]) == [str(path) for path in sorted(tmp_path.glob("*-repetitions.npy"))]


def test_quiet_prints_nothing_but_errors(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # or the progress bar would be off anyway
    assert tiny_main("--result_dir", tmp_path, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert tiny_main("--result_dir", tmp_path / "failing", "--quiet", "--lr", "1e30") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == ["main.py"] * 4


@pytest.mark.parametrize("form", ["--json", "--quiet", None])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("what nobody thought of")])
def test_a_report_that_fails_hides_no_result(
    tiny_main: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str | None,
    error: Exception,
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("active_learning.report.write.write_report", failing)
    folder = tmp_path / "my results"
    assert tiny_main("--result_dir", folder, "--experiments=1", *([form] if form else [])) == 1
    printed = capsys.readouterr()
    words = refusal(error) if isinstance(error, OSError) else error
    told = f"the report could not be written ({words}); the same command tries again, and runs nothing anew."
    assert printed.err.splitlines()[-1] == f"main.py: error: {told}"
    if form == "--json":
        assert json.loads(printed.out)["paths"]["report"] is None
    else:
        assert ("BALD" in printed.out) == (form is None)


def test_a_figure_that_could_not_be_drawn_is_told_at_the_end_of_a_run(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SimpleNamespace(page=tmp_path / "index.html", failures=("The figure of x could not be drawn.",))
    monkeypatch.setattr("active_learning.report.write.write_report", lambda *_, **__: report)
    folder = tmp_path / "my results"
    assert tiny_main("--result_dir", folder, "--experiments=1") == 1
    printed = capsys.readouterr()
    sentence = "main.py: error: The figure of x could not be drawn"
    assert printed.err.splitlines()[-1] == f"{sentence}; the same command tries again, and runs nothing anew."
    assert f"Page: {report.page}" in printed.out


def test_one_job_gives_the_bytes_of_two(
    embedded_run: tuple[Path, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    folder, _ = embedded_run
    assert main([*EMBEDDED, "--jobs", "1", "--result_dir", str(tmp_path)]) == 0
    for pattern in ("*.npy", "runs/*/*/*.npy", "runs/*/*/metrics.jsonl"):
        names = [path.relative_to(tmp_path) for path in sorted(tmp_path.glob(pattern))]
        assert names == [path.relative_to(folder) for path in sorted(folder.glob(pattern))]
        assert names
        assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_failed_run_is_reported_and_tried_again(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--lr", "1e30")
    for _ in range(2):
        assert tiny_main(*flags) == 1
        printed = capsys.readouterr().err
        assert "the same command tries it again" not in printed  # in vain: it would come to the same loss
        failed = r"bald-MC_dropout=True, repetition 1, failed: the training loss became (nan|inf) in epoch \d+ "
        assert re.search(failed + r"\(try a lower --lr in another result folder\)\.$", printed, re.MULTILINE)
        assert printed.count("(try a lower --lr in another result folder).\n") == 4
    assert len(list(tmp_path.rglob("failure.json"))) == 4


def test_full_disk_is_told(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("active_learning.disk.files.os.fsync", full)
    assert tiny_main("--result_dir", tmp_path) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tmp"))


def test_status_of_a_folder(tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    assert tiny_main("--result_dir", results, "--status") == 0
    assert "0 done, 0 going, 0 stopped, 0 failed, 4 to do; no program works on it" in capsys.readouterr().out
    assert not results.exists()
    assert tiny_main("--result_dir", results, "--experiments", "1") == 0
    assert tiny_main("--result_dir", results, "--experiments", "1", "--acq_func", "max_entropy", "--lr", "2e-3") == 0
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    capsys.readouterr()
    assert tiny_main("--result_dir", results, "--status") == 0
    printed = capsys.readouterr().out
    assert "2 done, 0 going, 0 stopped, 0 failed, 2 to do" in printed
    assert re.search(r"Time left: about 0:0\d:\d\d, with 1 run\(s\) side by side", printed)
    assert tiny_main("--result_dir", results, "--status", "--jobs", "3") == 0
    assert "with 2 run(s) side by side" in capsys.readouterr().out  # as the same command would do, and 2 are left
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_status_of_a_folder_of_other_settings(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--experiments", "1", "--determ") == 0
    capsys.readouterr()
    assert tiny_main("--result_dir", tmp_path, "--experiments", "1", "--status", "--precision", "auto") == 0
    printed = capsys.readouterr().out
    assert re.search(r"bald-MC_dropout=False +0 +not asked for +3 ", printed)
    assert "2 done, 0 going, 0 stopped, 0 failed, 0 to do" in printed
    assert tiny_main("--result_dir", tmp_path, "--status", "--epochs", "3") == 2
    shown = capsys.readouterr()
    assert shown.out.count("not asked for") == 3
    told = "(epochs is 2 there and 3 here): give --epochs 2 to continue them, or name another folder.\n"
    assert shown.err.endswith(told)
    assert "Time left" not in shown.out


def test_another_own_field_is_refused_by_its_name_and_the_status_says_so(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--experiments", "1", "--acq_func", "power_bald", "bald")
    assert tiny_main(*flags, "--coldness", "2") == 0
    for also in ((), ("--status",)):
        capsys.readouterr()
        assert tiny_main(*flags, "--coldness", "1", *also) == 2
        assert capsys.readouterr().err == (
            f"main.py: error: --result_dir {tmp_path} holds runs of another configuration (coldness is 2.0 there and "
            "1.0 here): give --coldness 2.0 to continue them, or name another folder.\n"
        )
    others = ("--result_dir", tmp_path, "--experiments", "1", "--acq_func", "softmax_bald", "--coldness", "1")
    assert tiny_main(*others) == 0, "another function's coldness is its own"


def test_a_run_that_was_stopped_is_told_from_one_to_do(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_main("--result_dir", tmp_path, "--experiments", "1", "--acq_func", "bald", "--rounds", "1") == 0
    capsys.readouterr()
    assert tiny_main("--result_dir", tmp_path, "--experiments", "1", "--status") == 0
    assert "0 done, 0 going, 1 stopped, 0 failed, 1 to do" in capsys.readouterr().out


def test_a_folder_of_an_older_version_is_read_and_not_continued(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"dataset": "tiny", "rounds": 2, "query": 4, "epochs": 2, "batch_size": 8, "dropout_iter": 4}
    changes |= {"pool_subset": 50, "weight_decay": 0.0, "val_size": 10}
    for acquisition in ("bald", "uniform"):
        write_run(tmp_path, run_config(acquisition=acquisition, **changes), [0.5, 0.4, 0.3])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    flags = ("--result_dir", tmp_path, "--experiments", "1")
    assert tiny_main(*flags) == 2
    sentence = "holds runs of an earlier version, whose training cut its batches otherwise: name another folder"
    refusal = f"main.py: error: --result_dir {tmp_path} {sentence}"
    printed = capsys.readouterr().err
    assert printed.startswith(refusal)
    assert printed.count("\n") == 1
    assert tiny_main(*flags, "--status") == 2
    shown = capsys.readouterr()
    assert len(re.findall(r"MC_dropout=True +0 +not asked for +3 ", shown.out)) == 2
    assert sentence in shown.err
    assert [run.rounds for run in read_results(tmp_path).runs] == [2, 2]
    assert read_results(tmp_path).unreadable == ()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.name.startswith(".lock")}
    assert {path: time for path, time in kept.items() if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_damage_is_told_by_the_status_and_when_it_is_mended(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--result_dir", tmp_path, "--experiments", "1", "--acq_func", "bald")
    assert tiny_main(*flags) == 0
    record = next(tmp_path.rglob("metrics.jsonl"))
    record.write_bytes(record.read_bytes()[:-5])
    capsys.readouterr()
    assert tiny_main(*flags, "--status") == 0
    assert "2 of 3    metrics.jsonl damaged, 2 whole rounds are kept; test error" in capsys.readouterr().out
    assert tiny_main(*flags) == 0
    sentence = "metrics.jsonl damaged, 2 whole rounds are kept; the damaged file is kept as *.damaged."
    assert f"{record.parent}: {sentence}\n" in capsys.readouterr().err
    assert tiny_main(*flags) == 0
    assert "damaged" not in capsys.readouterr().err


def test_status_of_what_cannot_be_read(tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert tiny_main("--result_dir", tmp_path / "file", "--status") == 2
    assert capsys.readouterr().err == f"main.py: error: --result_dir {tmp_path}/file is not a folder: name another.\n"
    record = tmp_path / "results/runs/bald-MC_dropout=True/repetition_0/metrics.jsonl"
    record.mkdir(parents=True)
    assert tiny_main("--result_dir", tmp_path / "results", "--status") == 1
    assert f"{record} is a folder, where a file belongs: move it away; " in capsys.readouterr().err


STOPPED = "main.py: error: stopped; finished rounds are saved, and the same command goes on.\n"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded is asked of Linux")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_imports(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "--dataset=mnist_5k", "--result_dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        while "numpy" not in Path(f"/proc/{program.pid}/maps").read_text() and program.poll() is None:
            pass
        program.send_signal(number)
        _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (code, STOPPED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_report(
    tiny_main: Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    monkeypatch.setattr("active_learning.report.write.draw_curves", lambda *_: os.kill(os.getpid(), number))
    assert tiny_main("--result_dir", tmp_path, "--quiet") == 128 + number
    assert capsys.readouterr().err == STOPPED


@pytest.mark.parametrize("verb", ["status", "report", "rank"])
def test_a_signal_during_another_verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("active_learning.report.command.main", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr("main._main", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert main([verb]) == 130
    anew = "main.py: error: stopped; the same command starts anew.\n"
    assert capsys.readouterr().err == (STOPPED if verb == "rank" else anew)


LONG_CALL = """
import hashlib
from active_learning.interruption import stoppable

with stoppable() as check:
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes within one call into C
"""


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_signal_ends_a_long_call(first: signal.Signals, second: signal.Signals) -> None:
    command = [sys.executable, "-c", LONG_CALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):  # the first waits for the end of the call
            program.wait(0.5)
        program.send_signal(second)
        try:
            assert program.wait(60) == 128 + second
        finally:
            program.kill()


@pytest.mark.parametrize(("command", "name"), [(report, "report"), (renumber, "renumber")], ids=["report", "renumber"])
def test_the_other_commands_refuse_in_one_sentence_too(
    command: Callable[[list[str]], int], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--bad"], ["--data_dir"], [str(tmp_path / "none")], ["--data", "x", str(tmp_path)]):
        assert command(words) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"{name}: error: ")
        assert printed.count("\n") == 1


@pytest.mark.parametrize("command", [main, report, renumber])
def test_help_names_no_type_of_python(command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--help"]) == 0
    assert not re.search(r"<class|Union|Literal|Optional|None\b", capsys.readouterr().out)


def test_a_verb_may_come_first(
    tiny_main: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--dataset=tiny", "--rounds=1", "--query=4", "--acq_func=uniform", "--val_size=10", "--weight_decay=0"]
    flags += ["--experiments=1", "--epochs=1", "--min_steps=0", "--result_dir", str(tmp_path)]
    assert main(["run", *flags, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["status", *flags]) == main([*flags, "--status"]) == 0
    first, second = capsys.readouterr().out.split("Nothing is left to do.\n")[:2]
    assert first == second
    assert "1 done" in first
    monkeypatch.undo()
    assert main(["report", str(tmp_path), "--no_gallery"]) == 0
    assert "Random" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["stats"]) == 2
    assert "run, status, report or rank come first." in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--val_size 59980",
        "--initial_per_class 5422",
        "--dataset mnist_5k --initial_per_class 400",
        "--dataset mnist_5k --classes 2 8 --rounds 10 --imbalance 1 0.5 --initial_per_class 500",
    ],
)
def test_the_limit_that_a_message_names_is_allowed(words: str) -> None:
    *others, _ = words.split()
    with pytest.raises(ConfigError) as refused:
        read_flags(words.split())
    (limit,) = re.findall(r"at most (\d+)", str(refused.value))
    read_flags([*others, limit])
