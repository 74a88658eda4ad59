"""A configuration file against the command line: it takes the same, means the same, and flags win over it."""

import contextlib
import io
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from active_learning.settings import flags as flags_module
from active_learning.settings.config import ConfigError, ExperimentConfig
from active_learning.settings.flags import FLAGS, make_parser, read_flags

SCALARS = (
    *("5", "-3", "0", "007", "0x10", "0b11", "1_000", "1:30", "1e2", "1e-3", "0.5", "5.0", "-.5"),
    *(".nan", ".inf", "-.inf"),
    *("true", "True", "TRUE", "false", "False", "FALSE", "yes", "no", "on", "off", "y", "n"),
    *("null", "Null", "NULL", "~", "", "bald", "tune", "auto", "cpu", "float32", "mnist_5k", "tcp://h:1"),
    *("2026-01-02", "2026-01-02T03:04:05Z", "=", "<<", "a b", "2 8", "0,3", "--mbr", "-", "a=b", "ä"),
)
STYLES = ("{}", '"{}"')
SWITCHES = [name for name, entry in FLAGS.items() if entry.type is bool]
VALUED = [name for name in FLAGS if name not in SWITCHES]


@pytest.fixture(autouse=True, scope="module")
def one_parser() -> Iterator[None]:
    """The parser is made once here: making one takes longer than reading with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags_module, "make_parser", lru_cache(make_parser))
        yield


def from_file(folder: Path, text: str, *flags: str) -> ExperimentConfig | str:
    """What a file of this content comes to, or the sentence that refuses it."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return read(*flags, "--config", str(path))


def read(*flags: str) -> ExperimentConfig | str:
    try:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            config = read_flags(flags)
    except ConfigError as error:
        sentence = str(error)
    else:
        assert not printed.getvalue()
        return config
    assert re.fullmatch(r"[^\n]+[.?]", sentence)
    return sentence


def same(first: ExperimentConfig | str, second: ExperimentConfig | str) -> bool:
    """Equal to the types of their values: True is not 1 and 1 is not 1.0, as a record would tell them apart."""
    if isinstance(first, str) or isinstance(second, str):
        return isinstance(first, str) and isinstance(second, str)
    return repr(first) == repr(second)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", VALUED)
def test_a_file_means_what_the_command_line_means(tmp_path: Path, name: str, style: str) -> None:
    for text in SCALARS:
        if style == "{}" and text in ("", "~", "null", "Null", "NULL"):  # YAML's own: see below
            continue
        if style == "{}" and text in ("=", "<<", "-"):
            continue  # no plain text in YAML
        in_file = from_file(tmp_path, f"{name}: {style.format(text)}\n")
        assert same(in_file, read(f"--{name}={text}")), (text, in_file)


@pytest.mark.parametrize("name", VALUED)
@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_null_is_taken_where_a_flag_may_be_left_out(tmp_path: Path, name: str, text: str) -> None:
    taken = from_file(tmp_path, f"{name}: {text}\n")
    if NoneType in get_args(FLAGS[name].type):
        assert same(taken, read(f"--{name}=null"))
    else:
        assert str(taken).startswith(f"--{name} null is not allowed: it takes ")


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_true_or_false_and_nothing_else(tmp_path: Path, name: str) -> None:
    for style in STYLES:
        for text in SCALARS:
            found = from_file(tmp_path, f"{name}: {style.format(text)}\n")
            if style == "{}" and text.lower() == "true":
                assert same(found, read(f"--{name}"))
            elif style == "{}" and text.lower() == "false":
                assert same(found, read())
            else:
                assert isinstance(found, str), (style, text)


def test_a_quoted_word_for_a_switch_says_what_is_taken(tmp_path: Path) -> None:
    assert from_file(tmp_path, 'warm_start: "false"') == (
        "--warm_start 'false' is not allowed: it takes no value on the command line, and true or false without quotes "
        "in a file."
    )


@settings(deadline=None, max_examples=150)
@example(name="acq_func", values=["--mbr", "bald"])
@example(name="classes", values=["-2", "8"])
@given(
    name=st.sampled_from(VALUED),
    values=st.lists(
        st.sampled_from(SCALARS) | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=8)
    ),
)
def test_a_list_means_the_words_after_a_flag(
    tmp_path_factory: pytest.TempPathFactory, name: str, values: list[str]
) -> None:
    found = from_file(tmp_path_factory.mktemp("list"), yaml.safe_dump({name: values}, allow_unicode=True))
    if isinstance(FLAGS[name].default, tuple):
        if not values:  # what --print_config prints of a flag that is not given
            assert same(found, read()) if not FLAGS[name].default else isinstance(found, str)
        elif not any(word.startswith("-") for word in values):
            assert same(found, read(f"--{name}", *values))
        else:
            assert isinstance(found, str)
    else:
        assert str(found).startswith(f"--{name} [...] is not allowed: it takes ")


@pytest.mark.parametrize(
    "text",
    [
        "epochs: {a: 5}",
        "? [epochs]\n: 5",
        "epochs: 5\nepochs: 6",
        "epochs: !!int '5'",
        "determ: !!bool 'true'",
        "classes: !!set {2, 8}",
        "classes: [[2, 8]]",
        "classes: &a [*a]",
        "[" * 5000,
        "config: other.yaml",
        "help: true",
        "<<: {epochs: 5}",
        "epochs: 5\n---\nepochs: 6",
        "epochs: 5\0",
        "acq_func: []",
        "result_dir: ''",
    ],
)
def test_other_content_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    assert isinstance(from_file(tmp_path, text), str)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_files_as_other_systems_write_them(tmp_path: Path, encoding: str, line_end: str) -> None:
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    text = line_end.join([f"{mark}epochs: 5", "result_dir: 结果", ""])
    (tmp_path / "run.yaml").write_bytes(text.encode(encoding))
    assert read("--config", str(tmp_path / "run.yaml")) == read("--epochs=5", "--result_dir=结果")


def test_a_file_that_is_no_text_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("epochs: 5 # Größe".encode("latin-1"))
    assert read("--config", str(path)) == (
        f"--config {path}: it is no text in UTF-8 or UTF-16: it takes a YAML file of settings such as epochs: 50; "
        "--print_config prints one."
    )
    path.write_bytes("epochs: 5".encode("utf-16-le"))  # without a mark
    assert isinstance(read("--config", str(path)), str)
    assert isinstance(read("--config", str(tmp_path)), str)


@pytest.mark.parametrize("name", VALUED)
def test_flags_win_over_a_file_wherever_they_stand(tmp_path: Path, name: str) -> None:
    special = {
        "acq_func": ("bald", "uniform"),
        "classes": ("[1, 2]", "3 4"),
        "imbalance": ([0.5] * 10, "0.1 " * 10),
        "label_noise": ("0.25", "0.5"),
        "dataset": ("mnist_5k", "mnist"),
        "scheduler": ("tcp://h:1", "tcp://i:1"),
    }
    is_choice = get_origin(FLAGS[name].type) is Literal
    theirs, ours = get_args(FLAGS[name].type)[-2:] if is_choice else special.get(name, ("17", "19"))
    base = ["--mbr", "--classes", "2", "8"] if name.startswith("mbr_") else []
    path = tmp_path / "config.yaml"
    path.write_text(f"{name}: {theirs}\n")
    flag = [f"--{name}", *ours.split()]
    alone = read(*base, *flag)
    assert read(*base, *flag, "--config", str(path)) == alone
    assert read(*base, "--config", str(path), *flag) == alone
    assert read(*base, f"--config={path}") != alone


def test_a_later_file_wins_over_an_earlier_one(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"epochs: {number}\n")
    config = read("--config", str(tmp_path / "1.yaml"), "--rounds", "3", "--config", str(tmp_path / "2.yaml"))
    assert config == read("--epochs", "2", "--rounds", "3")


@pytest.mark.parametrize("words", [["--config"], ["--config="], ["--config", "--epochs", "3"], ["--config", ""]])
def test_config_without_a_file(words: list[str]) -> None:
    assert read(*words) == "--config is given without its value: it takes a YAML file of settings."


@pytest.mark.parametrize("words", [["--result_dir="], ["--result_dir", ""], ["--data_dir", "", "--epochs=3"]])
def test_an_empty_path_is_not_the_folder_one_stands_in(words: list[str]) -> None:
    assert read(*words) == f"{words[0].rstrip('=')} is given without its value: it takes a path" + (
        ", for example result_npy/mine." if "result" in words[0] else " or null, for example data."
    )
