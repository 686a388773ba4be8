import subprocess
import sys

import numpy as np
import pytest

from ncf_ppt.rotation import fit_rotation, rotate


def vectors(n: int, size: int, seed: int = 0) -> np.ndarray:
    """A few crowds, as items have them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, size))
    return (centres[rng.integers(5, size=n)] + 0.7 * rng.normal(size=(n, size))).astype(np.float32)


def closeness(x: np.ndarray, rotation: np.ndarray) -> float:
    """The mean cosine of a rotated vector and its signs."""
    rotated = x.astype(np.float64) @ rotation
    lengths = np.linalg.norm(x, axis=1) * np.sqrt(rotation.shape[1])
    return float(np.mean(np.abs(rotated).sum(1) / lengths))


@pytest.mark.parametrize(("size", "n_bits"), [(6, 6), (6, 16), (1, 8)])
def test_inner_products_stay_and_signs_come_closer(size: int, n_bits: int) -> None:
    x = vectors(300, size)
    rotation = fit_rotation(x, n_bits)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(size), atol=1e-12)
    rotated = rotate(x, rotation)
    np.testing.assert_allclose(rotated @ rotated.T, x @ x.T, rtol=1e-4, atol=1e-4)
    random = np.linalg.qr(np.random.default_rng(0).normal(size=(n_bits, size)))[0].T
    assert closeness(x, rotation) >= closeness(x, random)  # each turn adds to it


def test_a_corner_of_a_cube_is_found() -> None:
    """Vectors that are the corners of a turned square lose nothing."""
    corners = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assert closeness(corners, np.eye(2)) < 0.71
    assert closeness(corners, fit_rotation(corners, 2)) > 1 - 1e-9


def test_rows_without_length_say_nothing() -> None:
    x = np.concatenate([vectors(50, 4), np.zeros((70, 4), np.float32)])
    assert fit_rotation(x, 8).tobytes() == fit_rotation(x[:50], 8).tobytes()
    nothing = fit_rotation(np.zeros((3, 4), np.float32), 8)
    np.testing.assert_allclose(nothing @ nothing.T, np.eye(4), atol=1e-12)
    assert fit_rotation(np.zeros((0, 4), np.float32), 8).shape == (4, 8)


def test_seeds_give_others_and_fewer_bits_than_components_are_refused() -> None:
    x = vectors(30, 4)
    assert fit_rotation(x, 8, seed=1).tobytes() != fit_rotation(x, 8).tobytes()
    with pytest.raises(ValueError, match="n_bits is 3; vectors of 4 components need at least as many"):
        fit_rotation(x, 3)


@pytest.mark.parametrize("size", [24, 128])
def test_a_row_is_rotated_alone(size: int) -> None:
    x = vectors(700, size)
    rotation = fit_rotation(x[:100], size)
    together = rotate(x, rotation)
    for rows in (slice(0, 1), slice(255, 300), slice(699, 700)):
        assert rotate(x[rows], rotation).tobytes() == together[rows].tobytes()


def test_it_does_not_depend_on_threads() -> None:
    code = """if True:
        import hashlib
        import numpy as np
        from ncf_ppt.rotation import fit_rotation, rotate
        x = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
        rotation = fit_rotation(x, 256)
        print(hashlib.sha256(rotation.tobytes() + rotate(x, rotation).tobytes()).hexdigest())
    """
    found = set()
    for threads in ("1", "2"):
        environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
