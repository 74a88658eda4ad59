"""One run: what it acquires, what it is tested on, and that it can be taken up anywhere."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import cnn_model
from acquisition_functions import ACQUISITION_FUNCTIONS, AcquisitionFunction, Evidence, bald, highest_scores
from active_learning import loop
from active_learning.disk.record import Round
from active_learning.interruption import NOBODY, Watch
from active_learning.loop import active_learning_rounds
from active_learning.metrics import negative_log_likelihood
from active_learning.models.inference import mc_dropout_blocks
from active_learning.models.network import WEIGHT_DECAY_GRID, NetworkLearner, make_network, weight_decays_to_try
from active_learning.settings.config import RunConfig
from active_learning.streams import Purpose, stream, stream_seed
from cnn_model import BayesianCNNClassifier, NonFiniteLossError
from load_data import ImageData, split_training_set

pytestmark = pytest.mark.usefixtures("one_thread")

SCORED = [name for name, function in ACQUISITION_FUNCTIONS.items() if function.score is not None]
BATCHES = [name for name, f in ACQUISITION_FUNCTIONS.items() if f.select is not highest_scores and name != "mbr"]
CLASSES = 3
ROUNDS = 4
QUERY = 6


@pytest.fixture(scope="module")
def data() -> ImageData:
    rng = np.random.default_rng(0)
    labels = np.arange(180) % CLASSES
    images = rng.integers(180, size=(180, 1, 12, 12), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 40
    return ImageData(images[:120], labels[:120], images[120:], labels[120:], CLASSES, (0.3,), (0.2,))


def make_config(**settings: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "dataset": "mnist_5k",
        "acquisition": "bald",
        "learner": "bayesian",
        "repetition": 0,
        "seed": 1,
        "rounds": ROUNDS,
        "query": QUERY,
        "pool_subset": 40,
        "val_size": 15,
        "batch_size": 16,
        "epochs": 2,
        "lr": 1e-3,
        "dropout_iter": 5,
        "weight_decay": 1.0,
        "warm_start": False,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return RunConfig(**{**defaults, **settings})


def make_run(data: ImageData, config: RunConfig, finished: Sequence[Round] = ()) -> Any:
    return loop.RunState(config, data, finished, NOBODY)


def run(data: ImageData, **settings: Any) -> list[Round]:
    return list(active_learning_rounds(make_config(**settings), data))


@pytest.mark.parametrize("acquisition", SCORED)
@pytest.mark.parametrize("learner", ["bayesian", "deterministic"])
def test_labelled_pool_and_validation_sets_partition_the_training_set(
    data: ImageData, acquisition: str, learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[set[int]] = []
    original = loop.RunState.candidates

    def candidates(self: Any, round_: int) -> Any:
        pools.append(set(np.flatnonzero(self.in_pool).tolist()))
        return original(self, round_)

    monkeypatch.setattr(loop.RunState, "candidates", candidates)
    results = run(data, acquisition=acquisition, learner=learner)
    splits = split_training_set(data.train_labels, 15, stream(1, 0, 0, Purpose.SPLIT))
    labelled, validation = set(splits.initial.tolist()), set(splits.validation.tolist())
    assert [result.round for result in results] == list(range(ROUNDS + 1))
    for result, pool in zip(results[1:], pools, strict=True):
        assert sorted([*labelled, *validation, *pool]) == list(range(120))
        acquired = set(result.acquired_train_index)
        assert len(acquired) == QUERY
        assert acquired <= pool
        labelled |= acquired
        assert result.labelled == len(labelled)
        assert result.acquired_labels == tuple(data.train_labels[list(result.acquired_train_index)].tolist())
    assert results[0].labelled == 2 * CLASSES
    assert results[0].acquired_train_index == ()


@pytest.mark.parametrize("acquisition", BATCHES)
def test_a_choice_of_a_batch_goes_on_to_the_same_images(data: ImageData, acquisition: str) -> None:
    config = make_config(acquisition=acquisition, rounds=3)
    whole = list(active_learning_rounds(config, data))
    assert len({index for round_ in whole for index in round_.acquired_train_index}) == 3 * QUERY
    for finished in (1, 3):
        assert list(active_learning_rounds(config, data, whole[:finished])) == whole[finished:]


def test_targets_are_of_the_pool_and_under_the_same_samples(data: ImageData) -> None:
    state = make_run(data, make_config(acquisition="epig"))
    state.begin(0)
    candidates = state.candidates(1)
    found = state.learner.evidence(candidates, state.labelled_train_index, state.function, round_=1)
    targets = stream(1, 0, 1, Purpose.TARGETS).choice(state.splits.pool, len(state.splits.pool), replace=False)
    assert found.target_tmc.shape == (5, len(targets), CLASSES), "a small pool is wholly taken"
    for row, index in enumerate(targets):
        (place,) = np.flatnonzero(candidates == index) if index in candidates else (None,)
        if place is not None:
            np.testing.assert_allclose(found.target_tmc[:, row], found.probs_tnc[:, place], atol=1e-6)


def test_a_function_that_needs_no_samples_gets_their_mean_and_picks_what_it_would_by_all(data: ImageData) -> None:
    def evidence(config: RunConfig, function: AcquisitionFunction) -> Evidence:
        state = make_run(data, config)
        state.begin(0)
        found: Evidence = state.learner.evidence(state.candidates(1), state.labelled_train_index, function, round_=1)
        return found

    badge = ACQUISITION_FUNCTIONS["badge"]
    config = make_config(acquisition="badge", dropout_iter=20)
    mean, whole = (evidence(config, f) for f in (badge, dataclasses.replace(badge, needs=badge.needs | {"samples"})))
    assert mean.probs_tnc is not None
    assert whole.probs_tnc is not None
    assert (mean.probs_tnc.shape, whole.probs_tnc.shape) == ((1, 40, CLASSES), (20, 40, CLASSES))
    picks = [badge.select(found, QUERY, np.random.default_rng(0)) for found in (mean, whole)]
    assert [array.tobytes() for array in picks[0]] == [array.tobytes() for array in picks[1]]


def test_embeddings_are_what_the_last_layer_takes(data: ImageData) -> None:
    state = make_run(data, make_config(acquisition="core_set"))
    state.begin(0)
    candidates, labelled = state.candidates(1), state.labelled_train_index
    found = state.learner.evidence(candidates, labelled, state.function, round_=1)
    module = state.learner.network.module_.eval()
    with torch.inference_mode():
        for images, rows in ((found.embeddings_nd, candidates), (found.labelled_ld, labelled)):
            logits = module.output(torch.from_numpy(images))
            torch.testing.assert_close(logits, module(torch.from_numpy(data.train_images[rows])), atol=1e-5, rtol=0)


def test_the_acquired_images_have_the_highest_scores_of_the_subset(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[Any, Any]] = []
    original = NetworkLearner.evidence

    def evidence(self: Any, candidates: Any, *arguments: Any, **others: Any) -> Any:
        found = original(self, candidates, *arguments, **others)
        scored.append((candidates, found.scores_n))
        return found

    monkeypatch.setattr(NetworkLearner, "evidence", evidence)
    results = run(data, acquisition="max_entropy")
    for result, (candidates, scores_n) in zip(results[1:], scored, strict=True):
        assert len(set(candidates.tolist())) == 40
        assert result.acquired_scores == tuple(np.sort(scores_n)[::-1][:QUERY].tolist())
        by_index = dict(zip(candidates.tolist(), scores_n.tolist(), strict=True))
        assert tuple(by_index[index] for index in result.acquired_train_index) == result.acquired_scores


def test_the_whole_pool_is_scored_when_asked_for(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def select(evidence: Evidence, count: int, rng: np.random.Generator) -> Any:
        assert evidence.scores_n is not None
        sizes.append(len(evidence.scores_n))
        return highest_scores(evidence, count, rng)

    monkeypatch.setitem(
        ACQUISITION_FUNCTIONS, "bald", dataclasses.replace(ACQUISITION_FUNCTIONS["bald"], select=select)
    )
    run(data, pool_subset=0, rounds=2)
    assert sizes == [120 - 6 - 15, 120 - 6 - 15 - QUERY]


def test_the_strategy_is_called_once_a_round(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    original = loop.RunState.query

    def query(self: Any, learner: Any, images: Any, round_: int) -> Any:
        rounds.append(round_)
        return original(self, learner, images, round_)

    monkeypatch.setattr(loop.RunState, "query", query)
    run(data)
    assert rounds == [1, 2, 3, 4]


WAYS_TO_TRAIN: dict[str, dict[str, Any]] = {
    "affine": {"augment": "affine"},
    "elastic": {"augment": "elastic", "augment_strength": 0.5},
    "flip": {"augment": "flip"},
    "min_steps": {"min_steps": 7},
    "warmup_cosine": {"lr_schedule": "warmup_cosine"},
    "cosine": {"lr_schedule": "cosine"},
    "stopping": {"stopping": "validation", "min_steps": 16, "lr": 2e-2},
    "epoch_images": {"epoch_images": 90},
    "initial_images": {"initial_images": (5, 31, 2)},
    "torch": {"initialisation": "torch"},
    "masks": {"masks": "image"},
    "tune": {"weight_decay": "tune"},
}
WAYS_TO_TRAIN["all"] = {key: value for way in WAYS_TO_TRAIN.values() for key, value in way.items()}
WAYS_TO_TRAIN["accuracy"] = {"stopping": "validation_accuracy", "min_steps": 16, "lr": 2e-2}


@pytest.fixture
def _short_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that may stop look at the validation set every other step and end after two looks without a gain."""
    monkeypatch.setattr(cnn_model, "STEPS_BETWEEN_CHECKS", 2)
    monkeypatch.setattr(cnn_model, "CHECKS_WITHOUT_GAIN", 2)


@pytest.mark.usefixtures("_short_checks")
@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
def test_a_run_of_any_training_can_be_taken_up_after_any_round(data: ImageData, way: str) -> None:
    config = make_config(**WAYS_TO_TRAIN[way], rounds=3)
    whole = list(active_learning_rounds(config, data))
    for finished in range(4):
        assert list(active_learning_rounds(config, data, whole[:finished])) == whole[finished:]
    first, *others = WAYS_TO_TRAIN[way]
    without = run(data, **{key: WAYS_TO_TRAIN[way][key] for key in others}, rounds=3)
    assert whole[1:] != without[1:], f"{first} changes something"


@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
@pytest.mark.usefixtures("_short_checks")
def test_a_warm_started_run_of_any_training_can_be_taken_up(data: ImageData, way: str) -> None:
    config = make_config(**WAYS_TO_TRAIN[way], rounds=2, warm_start=True)
    whole = list(active_learning_rounds(config, data))
    assert list(active_learning_rounds(config, data, whole[:2], whole[1].weights)) == whole[2:]


@pytest.mark.parametrize("finished", range(ROUNDS + 2))
def test_a_run_can_be_taken_up_after_any_round(data: ImageData, finished: int) -> None:
    config = make_config(weight_decay="tune")
    whole = list(active_learning_rounds(config, data))
    rest = list(active_learning_rounds(config, data, whole[:finished]))
    assert rest == whole[finished:]


def test_a_warm_started_run_can_be_taken_up_with_its_weights(data: ImageData) -> None:
    config = make_config(warm_start=True)
    whole = list(active_learning_rounds(config, data))
    rest = list(active_learning_rounds(config, data, whole[:3], whole[2].weights))
    assert rest == whole[3:]
    assert rest[-1].weights is not None
    assert whole[-1].weights is not None
    assert all(np.array_equal(rest[-1].weights[name], array) for name, array in whole[-1].weights.items())
    assert [result.test_nll for result in whole[1:]] != [result.test_nll for result in run(data)[1:]]


def test_one_seed_gives_one_curve_and_functions_of_one_repetition_are_paired(data: ImageData) -> None:
    bald = run(data)
    assert run(data) == bald
    entropy, other_seed, other_repetition = (
        run(data, acquisition="max_entropy"),
        run(data, seed=2),
        run(data, repetition=1),
    )
    assert entropy[0] == bald[0]
    assert entropy[1:] != bald[1:]
    assert other_seed[0] != bald[0]
    assert other_repetition[0] != bald[0]


def test_pool_subsets_of_different_functions_differ_only_by_what_they_acquired(data: ImageData) -> None:
    runs = []
    for acquisition in ("bald", "uniform"):
        state = make_run(data, make_config(acquisition=acquisition), run(data, acquisition=acquisition))
        runs.append((set(state.candidates(5).tolist()), set(np.flatnonzero(~state.in_pool).tolist())))
    (first, gone_first), (second, gone_second) = runs
    assert len(first ^ second) <= 2 * len(gone_first ^ gone_second)
    assert len(first & second) > len(first) // 2


def test_random_acquisition_is_uniform_over_the_pool(data: ImageData) -> None:
    counts = np.zeros(120)
    for seed in range(300):
        state = make_run(data, make_config(acquisition="uniform", seed=seed, val_size=0))
        counts[state.query(None, data.train_images, 1)] += 1
    expected = 300 * QUERY / 120
    assert ((counts - expected) ** 2 / expected).sum() < 180, "chi-square with 119 degrees of freedom"


def test_random_acquisition_asks_no_model(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[int] = []

    def blocks(net: Any, images: Any, *arguments: Any, **settings: Any) -> Any:
        sets.append(len(images))
        return mc_dropout_blocks(net, images, *arguments, **settings)

    monkeypatch.setattr("active_learning.models.network.mc_dropout_blocks", blocks)
    run(data, acquisition="uniform", rounds=2, val_size=0, weight_decay=0.0)
    assert sets == [60, 60, 60], "the test set, once a round, and nothing else"


def test_test_metrics_are_those_of_mc_dropout_on_the_whole_test_set(data: ImageData) -> None:
    config = make_config()
    result = run(data)[0]
    splits = split_training_set(data.train_labels, 15, stream(1, 0, 0, Purpose.SPLIT))
    net = make_network(config, data)
    net.set_params(fit_seed=stream_seed(1, 0, 0, Purpose.FIT), weight_decay=1.0)
    net.fit(data.train_images[splits.initial], data.train_labels[splits.initial])
    blocks = mc_dropout_blocks(net, data.test_images, passes=5, seed=stream_seed(1, 0, 0, Purpose.TEST_PASSES))
    probs_nc = torch.cat(list(blocks), dim=1).double().mean(dim=0).numpy()
    assert result.test_error == np.mean(probs_nc.argmax(axis=1) != data.test_labels)
    assert result.test_nll == pytest.approx(-np.log(probs_nc[np.arange(60), data.test_labels]).mean())


@pytest.mark.parametrize("augment", ["affine", "elastic", "flip"])
def test_acquisition_and_test_see_the_images_as_they_are(data: ImageData, augment: str) -> None:
    config = make_config(augment=augment)
    results = list(active_learning_rounds(config, data))
    state = make_run(data, config)
    state.begin(0)
    net: BayesianCNNClassifier = state.learner.network
    for images, labels, purpose, round_ in (
        (data.test_images, data.test_labels, Purpose.TEST_PASSES, 0),
        (data.train_images[state.candidates(1)], None, Purpose.SCORING_PASSES, 1),
    ):
        blocks = mc_dropout_blocks(net, images, passes=5, seed=stream_seed(1, 0, round_, purpose))
        probs_tnc = torch.cat(list(blocks), dim=1)
        if labels is None:
            scores_n = np.sort(bald(probs_tnc).numpy())[::-1]
            np.testing.assert_allclose(results[1].acquired_scores, scores_n[:QUERY], rtol=1e-5)
        else:
            assert results[0].test_nll == negative_log_likelihood(probs_tnc.double().mean(0).numpy(), labels)
    assert results[0].test_nll != run(data, rounds=0)[0].test_nll, "the fit did see others"


def test_only_the_scores_come_of_masks_of_their_own(data: ImageData) -> None:
    usual, own = run(data), run(data, masks="image")
    assert own[0] == usual[0]
    assert own[1].acquired_scores != usual[1].acquired_scores
    scores = []
    for masks in ("pass", "image"):
        state = make_run(data, make_config(masks=masks, dropout_iter=400))
        state.begin(0)
        images = state.candidates(1), state.labelled_train_index
        scores.append(state.learner.evidence(*images, state.function, round_=1).scores_n)
    assert np.corrcoef(scores)[0, 1] > 0.8, "of the same images, in the same order"
    assert run(data, masks="image", learner="deterministic") == run(data, learner="deterministic"), "there are no masks"
    assert run(data, masks="image", acquisition="uniform") == run(data, acquisition="uniform"), "and no scores"


def test_a_fit_is_stopped_by_the_validation_set_of_the_run(data: ImageData) -> None:
    state = make_run(data, make_config(stopping="validation"))
    validation = split_training_set(data.train_labels, 15, stream(1, 0, 0, Purpose.SPLIT)).validation
    images, labels = state.learner.network.validation
    assert np.array_equal(images, data.train_images[validation])
    assert np.array_equal(labels, data.train_labels[validation])
    assert run(data, stopping="none", val_size=0, rounds=1, weight_decay=0.0)[1].validation_error is None


def test_a_deterministic_run_uses_no_dropout_and_draws_lots_among_equals(data: ImageData) -> None:
    results = run(data, learner="deterministic")
    assert all(score == 0 for result in results for score in result.acquired_scores)
    assert run(data, learner="deterministic", acquisition="mean_std") == results, "all scores tie: the same lots"
    ratios = run(data, learner="deterministic", acquisition="var_ratios")
    assert len(set(ratios[1].acquired_scores)) > 1
    assert run(data, learner="deterministic", dropout_iter=50) == results, "there are no passes to count"


def test_weight_decay_is_tuned_when_the_labelled_set_has_doubled(data: ImageData) -> None:
    results = run(data, weight_decay="tune", rounds=7)
    assert [result.labelled for result in results if result.weight_decay_tuned] == [6, 12, 24, 48]
    assert all(result.weight_decay in WEIGHT_DECAY_GRID for result in results)
    held = [results[index].weight_decay for index in (0, 1, 1, 3, 3, 3, 3, 7)]
    assert [result.weight_decay for result in results] == held


def test_the_tuned_weight_decay_has_the_lowest_validation_loss(data: ImageData) -> None:
    results = run(data, weight_decay="tune", rounds=0)
    losses = {}
    for weight_decay in WEIGHT_DECAY_GRID:
        state = make_run(data, make_config(weight_decay=weight_decay))
        state.begin(0)
        images, labels = state.learner.validation
        probs_nc = state.learner.probabilities(images, round_=0, purpose=Purpose.VALIDATION_PASSES)
        losses[weight_decay] = negative_log_likelihood(probs_nc, labels)
    assert results[0].weight_decay == min(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == len(WEIGHT_DECAY_GRID)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, bool]]:
    """Every fit of the runs of a test: labelled images, weight decay, and whether it was trained for."""
    made: list[tuple[int, float, bool]] = []
    original = BayesianCNNClassifier.fit

    def fit(self: Any, images: Any, labels: Any, **others: Any) -> Any:
        made.append((len(images), self.weight_decay, self.trained is None))
        return original(self, images, labels, **others)

    monkeypatch.setattr(BayesianCNNClassifier, "fit", fit)
    return made


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tuning_tries_all_constants_and_later_the_neighbours_of_the_last(
    data: ImageData, fits: list[tuple[int, float, bool]], seed: int
) -> None:
    results = run(data, weight_decay="tune", rounds=7, seed=seed, epochs=12)
    expected: list[tuple[int, float | None, bool]] = []
    last: float | None = None
    for result in results:
        if result.weight_decay_tuned:
            tried = WEIGHT_DECAY_GRID if last is None else weight_decays_to_try(last)
            assert result.weight_decay in tried
            expected += [(result.labelled, weight_decay, True) for weight_decay in tried]
            last = result.weight_decay
        expected.append((result.labelled, last, not result.weight_decay_tuned))
    assert fits == expected
    trained = sum(trained for _, _, trained in fits)
    assert 4 + 3 * 2 + 4 <= trained <= 4 + 3 * 3 + 4, "four choices, and the four rounds without one"


@pytest.mark.parametrize(("last", "tried"), [(0.0, (0.0, 1.0)), (1.0, (0.0, 1.0, 3.5)), (3.5, (1.0, 3.5, 10.0))])
def test_the_neighbours_in_the_grid(last: float, tried: tuple[float, ...]) -> None:
    assert weight_decays_to_try(last) == tried


def test_every_choice_has_the_lowest_validation_loss_of_those_tried(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[int, dict[float, float]] = {}
    probabilities_of, tune_of = NetworkLearner.probabilities, NetworkLearner.tune
    tuning: list[int] = []

    def tune(self: Any, *arguments: Any) -> None:
        tuning.append(1)
        tune_of(self, *arguments)
        tuning.clear()

    def probabilities(self: Any, images: Any, *, round_: int, purpose: Purpose) -> Any:
        probs_nc = probabilities_of(self, images, round_=round_, purpose=purpose)
        if tuning:
            loss = negative_log_likelihood(probs_nc, self.validation[1])
            losses.setdefault(round_, {})[self.network.weight_decay] = loss
        return probs_nc

    monkeypatch.setattr(NetworkLearner, "tune", tune)
    monkeypatch.setattr(NetworkLearner, "probabilities", probabilities)
    results = run(data, weight_decay="tune", rounds=7)
    assert list(losses) == [0, 1, 3, 7]
    for round_, by_constant in losses.items():
        assert results[round_].weight_decay == min(by_constant, key=by_constant.__getitem__)
        assert len(set(by_constant.values())) == len(by_constant)


@pytest.mark.usefixtures("_short_checks")
@pytest.mark.parametrize("way", ["tune", "all"])
def test_the_weights_that_a_choice_takes_over_are_those_of_a_fit_with_it(data: ImageData, way: str) -> None:
    config = make_config(**{**WAYS_TO_TRAIN[way], "weight_decay": "tune"})
    state = make_run(data, config)
    state.begin(0)
    state.acquire(1)
    assert state.learner.weight_decay_tuned
    assert state.learner.network.trained is None, "for once"
    fresh = make_run(data, config).learner.network
    fresh.set_params(fit_seed=stream_seed(1, 0, 1, Purpose.FIT), weight_decay=state.learner.weight_decay)
    index = state.labelled_train_index
    fresh.fit(data.train_images[index], data.train_labels[index])
    assert all(np.array_equal(fresh.weights()[name], array) for name, array in state.learner.network.weights().items())


def test_a_choice_among_fits_that_all_went_wrong_is_refused(data: ImageData) -> None:
    with pytest.raises(NonFiniteLossError, match=r"^the validation loss is not a number after any fit"):
        run(data, lr=1e30, epochs=1, batch_size=128, weight_decay="tune")


def test_no_validation_set_gives_no_validation_error(data: ImageData) -> None:
    assert run(data, val_size=0, rounds=0)[0].validation_error is None
    assert run(data, rounds=0)[0].validation_error is not None


def test_seconds_are_kept_for_each_phase_of_the_round(data: ImageData) -> None:
    results = run(data, rounds=1, weight_decay="tune")
    assert set(results[0].seconds) == {"tune", "fit", "test"}
    assert set(results[1].seconds) == {"score", "tune", "fit", "test"}
    assert all(value > 0 for result in results for value in result.seconds.values())


def test_a_loss_that_is_not_finite_ends_the_run_after_its_whole_rounds(data: ImageData) -> None:
    with pytest.raises(NonFiniteLossError):
        run(data, lr=1e30)


def test_the_check_can_end_a_run(data: ImageData) -> None:
    class StopError(Exception):
        pass

    def check() -> None:
        raise StopError

    with pytest.raises(StopError):
        next(active_learning_rounds(make_config(), data, watch=Watch(check)))


@pytest.mark.parametrize("acquisition", SCORED)
def test_no_label_of_the_pool_is_used_before_it_is_paid_for(data: ImageData, acquisition: str) -> None:
    first = run(data, rounds=1, acquisition=acquisition)[1].acquired_train_index
    splits = split_training_set(data.train_labels, 15, stream(1, 0, 0, Purpose.SPLIT))
    hidden = data.train_labels.copy()
    hidden[splits.pool] = (hidden[splits.pool] + 1) % CLASSES
    changed = dataclasses.replace(data, train_labels=hidden)
    state = make_run(data, make_config(acquisition=acquisition))
    state.begin(0)
    state.data = changed
    state.acquire(1)
    assert tuple(state.acquired_train_index.tolist()) == first


def test_deterministic_bald_and_mean_std_acquire_the_images_of_random_acquisition(data: ImageData) -> None:
    random_images = [result.acquired_train_index for result in run(data, acquisition="uniform")]
    for acquisition in ("bald", "mean_std"):
        results = run(data, acquisition=acquisition, learner="deterministic")
        assert [result.acquired_train_index for result in results] == random_images


def test_probabilities_that_are_not_finite_end_a_run(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflown(self: object, images: np.ndarray, rows: object = None, **_: object) -> Iterator[torch.Tensor]:
        count = len(images) if rows is None else len(rows)  # type: ignore[arg-type]
        yield torch.full((2, count, 3), torch.nan)

    monkeypatch.setattr("active_learning.models.network.mc_dropout_blocks", overflown)
    with pytest.raises(FloatingPointError, match=r"^the model's probabilities are not finite$"):
        run(data, rounds=1)
