import numpy as np
import pytest

from wlshard.demo.brains import generate, load_atlas, make_volume
from wlshard.demo.phantom import CLASSES, head
from wlshard.errors import NotFound, UsageError


def take(count, seed=1, **settings):
    volumes = generate(np.random.default_rng(seed), **settings)
    return [next(volumes) for _ in range(count)]


@pytest.mark.parametrize("size", [16, 33, 48, 96])
def test_the_phantom_has_all_its_parts_at_every_size(size):
    labels = head(size)
    assert labels.shape == (size, size, size)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    assert not labels[[0, 0, -1, -1], [0, -1, 0, -1]].any(), "air around it"
    assert not labels.flags.writeable


def test_the_phantom_is_the_same_whatever_slabs_it_is_painted_in(monkeypatch):
    whole = head(40).copy()
    head.cache_clear()
    monkeypatch.setattr("wlshard.demo.phantom._SLAB_VOXELS", 3 * 40**2)
    assert np.array_equal(head(40), whole)
    head.cache_clear()


def test_equal_seeds_make_equal_volumes_and_others_do_not():
    one, two, other = take(2), take(2), take(1, seed=2)[0]
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a["img.npy"], b["img.npy"])
        assert np.array_equal(a["seg.npy"], b["seg.npy"])
    assert not np.array_equal(one[0]["seg.npy"], one[1]["seg.npy"])
    assert not np.array_equal(one[0]["seg.npy"], other["seg.npy"])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_volume_is_an_image_and_its_labels(dtype):
    (sample,) = take(1, size=32, dtype=dtype)
    assert list(sample) == ["img.npy", "seg.npy"]
    image, labels = sample.values()
    assert image.shape == labels.shape == (32, 32, 32)
    assert (image.dtype, labels.dtype) == (np.dtype(dtype), np.uint8)
    assert image.min() >= 0
    assert (255 if dtype == "uint8" else 1) >= image.max() > (200 if dtype == "uint8" else 0.8)


def test_the_image_shows_its_labels():
    for sample in take(5, size=32):
        image, labels = sample["img.npy"].astype(float), sample["seg.npy"]
        inside = np.mean([image[labels == label].std() for label in range(6)])
        assert image.std() > 2 * inside, "classes explain most of what is seen"


def test_volumes_are_the_same_whatever_slabs_they_are_made_in(monkeypatch):
    atlas = load_atlas(None, 32)
    whole = make_volume(np.random.default_rng(5), atlas, 32)
    monkeypatch.setattr("wlshard.demo.brains._SLAB_VOXELS", 5 * 32**2)
    sliced = make_volume(np.random.default_rng(5), atlas, 32)
    assert np.array_equal(whole[1], sliced[1])
    assert np.allclose(whole[0], sliced[0], atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("size", [16, 40])
def test_any_atlas_can_be_deformed_smaller_or_larger_than_the_volume(tmp_path, scan, size):
    label = np.zeros((24, 30, 20), np.uint8)
    label[4:20, 4:26, 4:16], label[8:16, 8:20, 7:12] = 1, 2
    t1 = np.random.default_rng(0).integers(0, 255, label.shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", label=label, **({"t1": t1} if scan else {}))
    atlas = load_atlas(str(tmp_path / "a.npz"), size)
    assert np.array_equal(atlas.target[1:-1, 1:-1, 1:-1], label)
    assert atlas.paint.max() == (5 if scan else 2), "what has no name is split by its brightness"
    assert np.array_equal(np.isin(atlas.paint, (1, 3, 4, 5)), atlas.target == 1)
    for sample in take(3, size=size, atlas=str(tmp_path / "a.npz")):
        assert set(np.unique(sample["seg.npy"])) <= {0, 1, 2}
        assert 2 in sample["seg.npy"]


def test_the_real_atlas_is_shown_whole_at_any_size(test_data):
    for sample in take(5, size=64, atlas=str(test_data / "mni152_tissue_1mm.npz")):
        assert set(np.unique(sample["seg.npy"])) <= {0, 1, 2, 3}
        labels = sample["seg.npy"]
        assert (labels == 2).mean() > 0.08
        assert (labels == 3).mean() > 0.05
        assert labels[0].mean() < 0.5, "it ends within the volume"


def test_settings_that_make_no_sense_are_usage_errors(tmp_path):
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    np.savez(tmp_path / "flat.npz", label=np.ones((3, 3), np.uint8))
    np.savez(tmp_path / "empty.npz", label=np.zeros((3, 3, 3), np.uint8))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other", "flat", "empty", "text"):
        with pytest.raises(UsageError, match="label"):
            take(1, atlas=str(tmp_path / f"{name}.npz"))
    with pytest.raises(NotFound, match="no such atlas"):
        take(1, atlas=str(tmp_path / "none.npz"))
    with pytest.raises(UsageError, match="uint8 or float32"):
        take(1, dtype="float64")
    with pytest.raises(UsageError, match="16 voxels"):
        take(1, size=8)
