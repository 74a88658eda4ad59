"""What the benchmark counts, by hand: MNIST's 28x28 pixels, 25x25 and 22x22 outputs, 11x11 windows."""

import numpy as np
import pytest
import torch

from active_learning.models.network import make_network
from benchmarks.speed import Bench, Budget, fit_floor, inference_floor
from cnn_model import Precision
from load_data import load_data
from tests.test_loop import make_config

FIRST, DIRECT, FILTERED, DENSE = 2 * 625 * 32 * 16, 2 * 121 * 64 * 1024, 2 * 121 * 25 * 1024, 2 * 3872 * 128


@pytest.fixture
def bench() -> Bench:
    return Bench(load_data("mnist_5k"), 1, "bfloat16", {"float32": 1.0, "bfloat16": 2.0})


@pytest.mark.parametrize("passes", [1, 100])
def test_the_floor_of_inference(bench: Bench, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = DENSE + passes * DENSE / 8
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert inference_floor(bench, "float32", 3, passes) == 3 * (FIRST + FILTERED + dense)
    assert inference_floor(bench, "bfloat16", 3, passes) == 3 * (FIRST + (FILTERED + dense) / 2)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert inference_floor(bench, "bfloat16", 3, passes) == 3 * (FIRST + DIRECT + dense) / 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_floor_of_a_fit(bench: Bench, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    images, labels = bench.labelled(20)
    net = bench.classifier(precision, 0).fit(images, labels)
    peak = bench.peaks[precision]
    with torch.inference_mode(), net.autocast():
        open_share = np.mean(net.module_.eval().features(torch.from_numpy(images)).numpy() > 0)
    gradients = 2 * DIRECT * 0.75 * open_share / 4
    expected = 2 * FIRST + gradients + (FILTERED + 3 * DENSE) / peak
    assert fit_floor(bench, net, images, 5) == pytest.approx(5 * 20 * expected)


def test_the_benchmark_times_the_network_as_runs_have_it(bench: Bench) -> None:
    config = make_config(precision="float32", dataset="mnist_5k")
    net, ours = bench.classifier("float32", 0), make_network(config, bench.data)
    for name in ("module__convolutions", "around_fit"):
        assert getattr(net, name) is getattr(ours, name) is not None


def test_a_curve_is_a_fit_a_round_and_the_fits_of_its_choices() -> None:
    assert Budget(32, 30, 500, "cosine").over_curve(lambda count: 1.0) == 101 + 3 + 5 * 2
    assert Budget(128, 50, 0, "constant", 4, 4).over_curve(lambda count: 1.0) == 101 + 6 * 4
    images = sum(range(20, 1021, 10))
    assert Budget(32, 30, 0, "cosine", 0, 0).over_curve(float) == pytest.approx(images)
