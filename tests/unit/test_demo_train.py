import os
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wlshard import Pool, ShardWriter  # noqa: E402
from wlshard.demo import figure, train  # noqa: E402
from wlshard.demo.brains import generate  # noqa: E402
from wlshard.demo.network import Segmenter, dice, loss_of, predict  # noqa: E402
from wlshard.demo.summary import Course, pool_rows  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _fonts(tmp_path_factory):
    """Matplotlib keeps its fonts open once it has drawn: let it do so before any test is watched."""
    volume = np.zeros((8, 8, 8))
    figure.draw(
        str(tmp_path_factory.mktemp("fonts")), Course(scores=[(0, [1])]), ["a"], volume, volume, volume
    )


@pytest.fixture
def pool(tmp_path):
    """A pool of 24 small heads, promoted in two generations."""
    pool = Pool(str(tmp_path / "pool")).create()
    volumes = generate(np.random.default_rng(1), size=24)
    for _ in range(2):
        with ShardWriter(pool, shard_samples=6) as writer:
            for _ in range(12):
                writer.write(next(volumes))
        pool.rotate(pool_samples=24)
    return pool


def command(pool, tmp_path, *more):
    return [pool.url, "--size", "24", "--steps", "3", "--out", str(tmp_path / "out"), "--threads", "1", *more]


def test_the_table_counts_what_is_retired_too(pool):
    volumes = generate(np.random.default_rng(2), size=24)
    for _ in range(3):
        with ShardWriter(pool) as writer:
            writer.write(next(volumes))
        pool.rotate()
    pool.retire(keep=2)
    with ShardWriter(pool) as writer:
        writer.write(next(volumes))
    table = dict(pool_rows(pool.url, {"samples": 54, "waited_s": 0.0}))
    assert table["generated (samples sealed)"] == "28"
    assert table["promoted by rotation"] == "27"
    assert table["reuse (served / promoted)"] == "2.0"


def test_dice_counts_overlap_of_each_class_but_air():
    labels = torch.tensor([[0, 1, 1, 2, 2, 2]])
    found = torch.tensor([[0, 1, 2, 2, 2, 0]])
    assert dice(found, labels, 4) == [2 / 3, 4 / 6, 1.0]
    assert dice(labels, labels, 3) == [1.0, 1.0]


def test_the_network_gives_logits_of_the_images_shape():
    images = torch.rand(2, 1, 16, 24, 32)
    logits, coarse = Segmenter(4)(images)
    assert logits.shape == (2, 4, 16, 24, 32)
    assert coarse.shape == (2, 4, 8, 12, 16)
    assert predict(Segmenter(4), images).shape == (2, 16, 24, 32)
    assert loss_of((logits, coarse), torch.zeros(2, 16, 24, 32, dtype=torch.long)).isfinite()


def test_the_network_bears_an_image_without_contrast():
    found = Segmenter(6)(torch.zeros(1, 1, 16, 16, 16))
    loss = loss_of(found, torch.zeros(1, 16, 16, 16, dtype=torch.long))
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(("size", "side"), [(24, 24), (50, 48), (64, 64), (100, 48), (130, 40)])
def test_large_volumes_are_thinned_to_what_the_network_takes(size, side):
    assert train.thinned(np.zeros((size, size, size), np.uint8), size).shape == (side, side, side)


def test_training_on_a_pool_raises_dice_and_tells_what_went_through(pool, tmp_path, capsys):
    assert train.main(command(pool, tmp_path, "--steps", "80")) == 0
    out = capsys.readouterr().out
    before, after = map(float, out.split("mean of the classes")[1].split("\n")[0].split("→"))
    assert after > before + 0.25
    rows = dict(line.rsplit("  ", 1) for line in out.split("\n\n")[2].splitlines())
    rows = {name.strip(): value for name, value in rows.items()}
    assert rows["generated (samples sealed)"] == "24"
    assert rows["promoted by rotation"] == "24"
    assert rows["served to the trainer"] == "160"
    assert rows["generations"] == "2"
    assert rows["reuse (served / promoted)"] == "6.7"
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_equal_seeds_train_equally(pool, tmp_path, capsys):
    runs = []
    for _ in range(2):
        assert train.main(command(pool, tmp_path, "--seed", "5")) == 0
        runs.append(capsys.readouterr().out.split("\n\n")[1])
    assert runs[0] == runs[1]
    assert "skull" in runs[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_with_what_there_is(pool, tmp_path, capsys, monkeypatch, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    say = train.say

    def signalling(*lines):
        say(*lines)
        if "step    1" in lines[0]:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(train, "say", signalling)
    try:
        assert train.main(command(pool, tmp_path, "--steps", "100000")) == 130
    finally:
        signal.signal(signal.SIGTERM, before[1])
    out = capsys.readouterr().out
    assert "interrupted" in out
    assert "served to the trainer" in out
    assert (tmp_path / "out" / "demo.png").exists()
    assert signal.getsignal(signal.SIGINT) is before[0]


def test_without_matplotlib_the_run_is_whole_but_for_the_picture(pool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    assert train.main(command(pool, tmp_path)) == 0
    out = capsys.readouterr().out
    assert "pip install 'wlshard[report]'" in out
    assert "served to the trainer" in out
    assert not (tmp_path / "out").exists()


def test_a_missing_pool_is_said_with_its_exit_code(tmp_path, capsys):
    assert train.main([str(tmp_path / "none"), "--size", "16"]) == 10
    assert "NotFound: " in capsys.readouterr().err


def test_the_pool_comes_from_wl_run(pool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WL_POOL", pool.url)
    assert train.main(command(pool, tmp_path)[1:]) == 0
    assert pool.url in capsys.readouterr().out


def test_without_any_pool_the_usage_is_shown(monkeypatch, capsys):
    monkeypatch.delenv("WL_POOL", raising=False)
    with pytest.raises(SystemExit, match="2"):
        train.main([])
    assert "WL_POOL" in capsys.readouterr().err


def test_volumes_of_another_size_than_told_are_a_usage_error(pool, tmp_path, capsys):
    assert train.main([pool.url, "--size", "32", "--out", str(tmp_path)]) == 2
    assert "(24, 24, 24), not of the 32 voxels" in capsys.readouterr().err
