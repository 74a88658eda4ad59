"""The commands of recorded runs: together they plan these runs and no others, whatever a folder holds."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.settings.arms import commands, planned_runs
from active_learning.settings.config import own_fields
from active_learning.settings.flags import read_flags
from active_learning.settings.learners import LEARNERS
from tests.result_folders import run_config

ARMS = [
    (function.name, kind.name)
    for kind in LEARNERS.values()
    for function in ACQUISITION_FUNCTIONS.values()
    if function.needs <= kind.gives and (kind.name != "field" or function.name in ("mbr", "uniform"))
]
OWN = {"coldness": (4.0, 0.5), "mbr_neighbours": (10, 5), "mbr_sigma": (380.0, "tune")}


def identities(arms: list[tuple[str, str]], others: int, repetitions: int) -> list[dict[str, Any]]:
    """Records of the arms; those at the places that are bits of `others` have own fields of other values."""
    runs = [
        run_config(
            acquisition=acquisition, learner=learner, repetition=repetition, classes=(2, 8), equal_batches=True,
            **{name: OWN[name][others >> place & 1] for name in own_fields(acquisition, learner)},
        )
        for place, (acquisition, learner) in enumerate(arms)
        for repetition in range(repetitions)
    ]  # fmt: skip
    return [run.identity() for run in runs]


@settings(deadline=None, max_examples=200)
@example([("uniform", "bayesian"), ("bald", "bayesian"), ("max_entropy", "deterministic")], 0, 1)
@example([("batch_bald", "bayesian"), ("bald", "bayesian"), ("bald", "deterministic")], 0, 2)
@example([("mbr", "field"), ("uniform", "field"), ("uniform", "bayesian")], 0, 1)
@example([("power_bald", "bayesian"), ("softmax_bald", "bayesian"), ("bald", "deterministic")], 2, 1)
@given(
    st.lists(st.sampled_from(ARMS), min_size=1, max_size=8, unique=True),
    st.sampled_from([0, 255]) | st.integers(0, 255),
    st.integers(1, 2),
)
def test_the_commands_plan_the_runs_of_a_folder_and_no_others(
    arms: list[tuple[str, str]], others: int, repetitions: int
) -> None:
    recorded = identities(arms, others, repetitions)
    given_ = commands(recorded[0], recorded[::repetitions], 4, repetitions)
    planned = [run.identity() for words in given_ for run in planned_runs(read_flags(words[2:]), "float32", "cpu")]
    assert sorted(map(str, planned)) == sorted(map(str, recorded))


def test_an_experiment_with_its_deterministic_arms_is_one_command() -> None:
    arms = [("uniform", "bayesian"), ("bald", "bayesian"), ("bald", "deterministic")]
    (words,) = commands(*(lambda rows: (rows[0], rows))(identities(arms, 0, 1)), 4, 1)
    assert words[-6:] == ["--acq_func", "uniform", "bald", "--determ", "--result_dir", "result_again"]
