"""Files are whole or absent, and a damaged one is named."""

import numpy as np
import pytest

from nhn_tf.storage import files


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(path, "w") as file:
        file.write("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_round_trip_with_slashes_types_and_scalars(tmp_path):
    arrays = {
        "layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "seed": np.array([1, 2], np.uint32),
        "step": np.array(7),
        "allow": np.zeros((0, 3)),
        "file": np.ones(2),
    }
    files.save_npz(tmp_path / "w.npz", arrays)
    loaded = files.load_npz(tmp_path / "w.npz")
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_a_truncated_or_foreign_npz_is_named(tmp_path):
    path = tmp_path / "w.npz"
    files.save_npz(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(files.DamagedFileError, match=r"w\.npz"):
            files.load_npz(path)


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(files.DamagedFileError):
        files.load_npz(path)


def test_digest_of_arrays_sees_names_types_shapes_and_bytes():
    base = {"a": np.arange(4, dtype=np.int32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].astype(np.uint32)},
        {"a": base["a"].reshape(2, 2)},
        {"a": base["a"] + 1},
        {},
    ]
    digests = {files.digest_arrays(arrays) for arrays in [base, *others]}
    assert len(digests) == 6
    assert files.digest_arrays({"a": np.arange(4, dtype=np.int32)}) in digests


def test_files_may_be_read_as_the_umask_says(tmp_path):
    expected = tmp_path / "plain.txt"
    expected.write_text("x")
    files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == expected.stat().st_mode
