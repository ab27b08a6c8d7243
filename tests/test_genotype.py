"""Genotypes: round trips through genes, text, JSON and files; what is not a genotype is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nhn_tf.storage.files import DamagedFileError
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import OP_NAMES, Space


@st.composite
def genotypes(draw):
    segments = draw(st.integers(1, 3))
    ops = draw(st.lists(st.sampled_from(OP_NAMES), min_size=1, unique=True))
    space = Space(segments * draw(st.integers(1, 4)), segments, tuple(ops))
    genes = space.sample(np.random.default_rng(draw(st.integers(0, 2**32))))[0]
    return Genotype.from_genes(space, genes)


@given(genotypes())
def test_genes_text_and_json_round_trip(genotype):
    assert Genotype.from_genes(genotype.space, genotype.genes()) == genotype
    assert Genotype.from_enas_text(genotype.to_enas_text(), genotype.space) == genotype
    assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype


def test_enas_text_by_hand():
    # Layer 0: conv 5x5. Layer 1: max pool, joins the stem. Layer 2: separable 3x3, joins layer 0's output.
    genotype = Genotype(Space(3, 3), ("conv5x5", "max_pool3x3", "sep_conv3x3"), ((), (0,), (1,)))
    assert genotype.to_enas_text() == "2\n5 1\n1 0 1\n"
    assert Genotype.from_enas_text("2 5 1 1 0 1") == genotype
    assert genotype.genes().tolist() == [2, 5, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"L \(L \+ 1\) / 2"),
        ("0 1", "Received: 2"),
        ("0 0 x", "integers only"),
        ("6", "row 0: the op's code"),
        ("-1", "row 0: the op's code"),
        ("0 0 1 0 2 0", "row 2: skip bits"),
        ("0 0 1", "multiple of num_segments"),  # two layers cannot make three segments
    ],
)
def test_wrong_enas_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Genotype.from_enas_text(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ops": ("conv3x3",) * 2}, "2 ops"),
        ({"ops": ("conv3x3", "conv3x3", "conv9x9")}, r"`ops\[2\]`.*'conv9x9'"),
        ({"skips": ((), (1,), ())}, r"`skips\[1\]` must name outputs below 1"),
        ({"skips": ((), (), (1, 0))}, "ascend"),
        ({"skips": ((), (), (0, 0))}, "ascend"),
        ({"addons": (Addon(3, 3, 0),)}, "target"),
        ({"addons": (Addon(0, 4, 0),)}, "kernel size"),
        ({"addons": (Addon(0, 3, 1),)}, "before its target"),
        ({"addons": (Addon(2, 3, 0), Addon(2, 3, 1))}, "at most one"),
    ],
)
def test_invalid_genotypes_are_refused(changes, message):
    good = Genotype(Space(3, 1), ("conv3x3",) * 3, ((), (), ()))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **changes)


@pytest.fixture
def pruned():
    masks = Masks({"layer0_op": np.array([[True, False], [True, True]])})
    base = Genotype(Space(3, 1), ("conv3x3",) * 3, ((), (0,), (0, 1)))
    return dataclasses.replace(base, masks=masks, addons=(Addon(2, 5, 1), Addon(1, 3, 0)))


def test_files_round_trip_with_masks_and_addons(pruned, tmp_path):
    pruned.save(tmp_path)
    again = Genotype.load(tmp_path)
    assert again == pruned
    assert hash(again) == hash(pruned)


def test_equal_values_hash_alike_and_masks_tell_apart(pruned):
    other = dataclasses.replace(pruned, masks=Masks({"layer0_op": np.ones((2, 2), bool)}))
    assert other != pruned
    assert other.digest != pruned.digest


def test_without_addons_their_masks_go_and_the_others_stay(pruned):
    grown = dataclasses.replace(pruned, masks=pruned.masks.merge({"addon1_conv": np.ones((2, 2), bool)}))
    assert grown.without_addons() == dataclasses.replace(pruned, addons=())
    assert dataclasses.replace(pruned, masks=None).without_addons().masks is None


def test_masks_of_another_genotype_are_refused(pruned, tmp_path):
    pruned.save(tmp_path)
    Masks({"layer0_op": np.ones((2, 2), bool)}).save(tmp_path / "masks.npz")
    with pytest.raises(DamagedFileError, match="do not belong"):
        Genotype.load(tmp_path)


def test_missing_masks_are_named(pruned, tmp_path):
    pruned.save(tmp_path)
    (tmp_path / "masks.npz").unlink()
    with pytest.raises(DamagedFileError, match=r"no masks\.npz"):
        Genotype.load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 9}', b"\xff\xfe"])
def test_damaged_genotype_file_is_named(pruned, tmp_path, damage):
    pruned.save(tmp_path)
    (tmp_path / "genotype.json").write_bytes(damage)
    with pytest.raises(DamagedFileError, match=r"genotype\.json"):
        Genotype.load(tmp_path)


def test_an_edited_architecture_fails_its_digest(pruned, tmp_path):
    pruned.save(tmp_path)
    path = tmp_path / "genotype.json"
    value = json.loads(path.read_text())
    value["architecture"][0] = "4"
    path.write_text(json.dumps(value))
    with pytest.raises(DamagedFileError, match="digest"):
        Genotype.load(tmp_path)
