import numpy as np
import pytest

from data_prep.images.synthetic import synthesize_images


def test_classes_are_balanced_and_images_are_a_function_of_the_seed() -> None:
    data = synthesize_images(203, 50, seed=1)
    assert data.train.images.shape == (203, 32, 32, 3)
    assert data.test.images.shape == (50, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [21] * 3 + [20] * 7
    assert np.bincount(data.test.labels).tolist() == [5] * 10
    assert len(set(data.train.labels[:20].tolist())) > 5
    assert data.n_classes == 10
    assert data.manifest["source"] == {"name": "synthetic images", "n_train": 203, "n_test": 50, "seed": 1}
    again, other = synthesize_images(203, 50, seed=1), synthesize_images(203, 50, seed=2)
    assert np.array_equal(data.train.images, again.train.images)
    assert np.array_equal(data.test.images, again.test.images)
    assert np.array_equal(data.train.labels, again.train.labels)
    assert data.normalization == again.normalization
    assert not np.array_equal(data.train.images, other.train.images)
    assert len(np.unique(data.test.images.reshape(50, -1), axis=0)) == 50


def test_colours_say_nothing_and_shapes_say_the_class() -> None:
    data = synthesize_images(2000, 1000, seed=0)
    colours = data.train.images.mean((1, 2))
    by_class = np.array([colours[data.train.labels == label].mean(0) for label in range(10)])
    assert np.abs(by_class - colours.mean(0)).max() < 15

    def features(images: np.ndarray) -> np.ndarray:
        """How often colours change from row to row and from column to column, coarsely."""
        coarse = images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
        coarse -= coarse.mean((1, 2), keepdims=True)
        spectrum = np.abs(np.fft.fft2(coarse, axes=(1, 2))).mean(3).reshape(len(images), -1)
        return np.asarray(spectrum / np.linalg.norm(spectrum, axis=1, keepdims=True))

    train, test = features(data.train.images), features(data.test.images)
    centres = np.array([train[data.train.labels == label].mean(0) for label in range(10)])
    nearest = np.argmin(((test[:, None] - centres) ** 2).sum(2), axis=1)
    assert (nearest == data.test.labels).mean() > 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 9}, "9 training images cannot show 10 classes; ask for at least 10"),
        ({"n_test": 0}, "0 test images cannot show 10 classes; ask for at least 10"),
        ({"seed": -1}, "seed is -1; it must be between 0 and"),
    ],
)
def test_refuses_impossible_sizes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize_images(**{"n_train": 10, "n_test": 10, "seed": 0, **arguments})
