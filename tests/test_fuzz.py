"""Whatever a user passes in: it runs, or a sentence names what is at fault. Never another error, never for ever."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from absl import flags as absl_flags
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flags.define import StageFlags
from nhn_tf.data import DataError, decoding, load, pictures, skipped_files
from nhn_tf.errors import UserError
from nhn_tf.settings import PRESETS, DataConfig, PruneConfig, TrainConfig
from nhn_tf.settings.stages import NAMES as STAGES
from nhn_tf.storage import files
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import MAX_LAYERS, OpError, Space
from tests.test_datasets import folder_config, grey, png_header, save, write_folder

ROOT = Path(__file__).resolve().parent.parent


def examples(count):
    """Draws the same `count` examples every time."""
    return settings(max_examples=count, derandomize=True, database=None, deadline=None)


# Flags.


ODD_WORDS = [
    "", "auto", "true", "no", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_000", "٣", "1,2", ",", '"', "''",
    "conv3x3", "conv3x3,conv5x5", "conv3x3,conv3x3", "std", "global", "None", " 3 ", "-1", "9" * 400, "~nobody/x",
    "../..", "$HOME", "\udcff",
]  # fmt: skip


def words():
    """Values as a user, a script or an accident would write them."""
    numbers = st.one_of(st.integers(-(10**6), 10**6), st.integers(), st.floats()).map(str)
    text = st.text(st.characters(exclude_characters="\0"), max_size=20)
    return st.one_of(numbers, st.sampled_from(ODD_WORDS), text)


@functools.cache
def _defined(prefixed):
    return StageFlags(STAGES, values=absl_flags.FlagValues(), choose_stage=not prefixed, prefixed=prefixed)


def script_flags(prefixed):
    """The flags of a script, as before any command line was read."""
    parsed = _defined(prefixed)
    for name in parsed.values:
        parsed.values[name].unparse()
    parsed.values.unparse_flags()
    return parsed


def arguments(parsed):
    settings_ = sorted(parsed._settings)
    known = st.tuples(st.sampled_from([*settings_, "preset", "seed", "model_dir", "stage", "overwrite"]), words())
    typed = known.map(lambda flag: f"--{flag[0]}={flag[1]}")
    bare = st.sampled_from(settings_).map(lambda name: f"--{name}")
    negated = st.sampled_from(settings_).map(lambda name: f"--no{name}")
    return st.lists(st.one_of(typed, typed, typed, bare, negated, words()), max_size=4)


@given(st.data())
@examples(75)
def test_any_command_line_is_a_configuration_or_named(data):
    check_command_line(data)


@pytest.mark.slow
@given(st.data())
@examples(5000)
def test_any_of_many_command_lines_is_a_configuration_or_named(data):
    check_command_line(data)


def check_command_line(data):
    parsed = script_flags(data.draw(st.booleans()))
    line = data.draw(arguments(parsed))
    stage = data.draw(st.sampled_from(STAGES))
    try:
        parsed.values(["script", *line])
        parts = parsed.configured(stage)
    except (absl_flags.Error, UserError) as error:
        assert str(error)
        assert len(str(error)) < 3000
        return
    for part, config in parts.items():
        assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config
        assert type(config) is type(PRESETS["paper"].stage(part))


# Configurations.

JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@given(st.sampled_from(("data", "compute", *STAGES)), st.data())
@examples(75)
def test_any_override_of_a_configuration_is_taken_or_named(part, data):
    config = PRESETS["demo"].stage(part)
    names = [field.name for field in dataclasses.fields(config)]
    changes = data.draw(
        st.dictionaries(st.sampled_from([*names, "no_such_field"]), JSON_VALUES, min_size=1, max_size=3)
    )
    value = {**config.to_json(), **changes}
    try:
        changed = type(config).from_json(value)
    except ValueError as error:
        assert any(name in str(error) for name in [*changes, "lr_min", "num_segments"])
        return
    assert json.loads(json.dumps(changed.to_json())) == {**json.loads(json.dumps(value)), **{
        name: getattr(changed, name) for name in changes if isinstance(getattr(changed, name), (int, float))
    }}  # fmt: skip


@given(JSON_VALUES)
@examples(50)
def test_any_value_in_place_of_a_configuration_is_refused(value):
    with contextlib.suppress(ValueError):
        assert TrainConfig.from_json(value) == TrainConfig(**value)


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**309])
def test_a_number_that_no_float_holds_is_named(value):
    """`math.isfinite` and `float` raise OverflowError on them."""
    with pytest.raises(ValueError, match="`lr_max` must be between"):
        TrainConfig(lr_max=value)
    with pytest.raises(ValueError, match="`epochs` must be between"):
        TrainConfig(epochs=value)
    with pytest.raises(ValueError, match="`train_limit` must be between"):
        DataConfig(train_limit=value)


def test_every_number_has_both_ends_of_a_range():
    """A clip_norm of 1e300 makes gradients NaN, a period of 10**400 epochs fits no float."""
    for part in ("data", "compute", *STAGES):
        for field in dataclasses.fields(PRESETS["paper"].stage(part)):
            if field.type in ("int", "float"):
                assert None not in (field.metadata["low"], field.metadata["high"]), field.name


def test_an_infinite_threshold_is_refused():
    with pytest.raises(ValueError, match="`threshold` must be auto or a number"):
        PruneConfig(threshold="inf")


# Genotypes.

GENOTYPE = Genotype(
    Space(6, 3),
    ("conv3x3", "conv5x5") * 3,
    ((), (0,), (), (1, 2), (), (0, 4)),
    masks=Masks({"layer0_op": np.eye(4, dtype=bool)}),
    addons=(Addon(1, 3, 1), Addon(2, 5, 0)),
)


def somewhere(value, draw):
    """A place in a JSON value: the container and its key."""
    places = []

    def walk(inner):
        entries = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, item in entries:
            places.append((inner, key))
            walk(item)

    walk(value)
    return draw(st.sampled_from(places))


@given(st.data())
@examples(200)
def test_any_change_of_a_genotype_file_is_named_even_with_a_right_digest(tmp_path_factory, data):
    check_genotype(tmp_path_factory, data)


@pytest.mark.slow
@given(st.data())
@examples(5000)
def test_any_of_many_changes_of_a_genotype_file_is_named(tmp_path_factory, data):
    check_genotype(tmp_path_factory, data)


def check_genotype(tmp_path_factory, data):
    directory = tmp_path_factory.getbasetemp() / "genotype"
    GENOTYPE.save(directory)
    value = json.loads(json.dumps(GENOTYPE.to_json()))
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = somewhere(value, data.draw)
        if data.draw(st.booleans()) and isinstance(container, dict):
            del container[key]
        else:
            container[key] = data.draw(
                st.one_of(JSON_VALUES, st.integers(-2, 20), st.sampled_from(["0", "0 1", "conv3x3"]))
            )
    files.write_sealed(directory / "genotype.json", value)
    try:
        found = Genotype.load(directory)
    except files.DamagedFileError as error:
        assert "genotype.json" in str(error)
    except OpError as error:  # a name that an op might be registered by
        assert "not registered" in str(error)
    else:  # another sound genotype, whose digest is another
        assert found.to_json() == value
        assert Genotype.from_genes(found.space, found.genes()).ops == found.ops


@given(st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(st.integers(-1, 6), st.integers()), max_size=60).map(lambda row: " ".join(map(str, row))),
    st.lists(st.sampled_from([0, 1]), min_size=21, max_size=21).map(lambda row: " ".join(map(str, row))),
))  # fmt: skip
@examples(300)
def test_any_text_is_an_architecture_or_refused(text):
    try:
        genotype = Genotype.from_enas_text(text)
    except ValueError as error:
        assert len(str(error)) < 500
    else:
        assert Genotype.from_enas_text(genotype.to_enas_text()) == genotype


def test_a_text_of_more_layers_than_can_be_built_is_refused():
    rows = ["0" + " 1" * layer for layer in range(MAX_LAYERS + 2)]
    with pytest.raises(ValueError, match=f"between 1 and {MAX_LAYERS}. Received: {MAX_LAYERS + 2}"):
        Genotype.from_enas_text("\n".join(rows))
    assert Genotype.from_enas_text("\n".join(rows[:63])).space.num_layers == 63


# Folders of images. Each oddity is written beside sound 8 x 8 images; it is used, or named.


def noise(shape, seed=0, kind=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(transparency):
    return encoded(Image.fromarray(noise((8, 8, 3))).quantize(16), "PNG", transparency=transparency)


def animation(kind):
    frames = [Image.fromarray(noise((8, 8), seed)) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def with_chunk(name, content):
    """A sound PNG with one more chunk behind its header."""
    png = encoded(Image.fromarray(noise((8, 8))), "PNG")
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


JPEG = encoded(Image.fromarray(noise((8, 8, 3))), "JPEG", quality=95)
PNG = encoded(Image.fromarray(noise((8, 8, 3))), "PNG")
exif = Image.Exif()
exif[0x0112] = 6

USED = {
    "grey": encoded(Image.fromarray(noise((8, 8))), "PNG"),
    "grey with transparency": encoded(Image.fromarray(noise((8, 8, 2)), "LA"), "PNG"),
    "RGBA": encoded(Image.fromarray(noise((8, 8, 4))), "PNG"),
    "16 bits": encoded(Image.fromarray(noise((8, 8), kind=np.uint16)), "PNG"),
    "one bit": encoded(Image.new("1", (8, 8), 1), "PNG"),
    "palette": encoded(Image.fromarray(noise((8, 8, 3))).quantize(16), "PNG"),
    "palette with one transparent colour": palette(3),
    "palette with transparencies": palette(bytes(range(0, 160, 10))),
    "CMYK": encoded(Image.fromarray(noise((8, 8, 4)), "CMYK"), "JPEG"),
    "YCCK": encoded(Image.fromarray(noise((8, 8, 4)), "CMYK"), "JPEG", quality=50),
    "grey JPEG": encoded(Image.fromarray(noise((8, 8))), "JPEG"),
    "progressive JPEG": encoded(Image.fromarray(noise((8, 8, 3))), "JPEG", progressive=True),
    "JPEG turned by its EXIF": encoded(Image.fromarray(noise((8, 8, 3))), "JPEG", exif=exif),
    "JPEG called PNG": JPEG,
    "interlaced-looking PNG of one colour": encoded(Image.new("RGB", (8, 8)), "PNG", optimize=True),
    "animated PNG": animation("PNG"),
    "animated GIF": animation("GIF"),
    "WebP": encoded(Image.fromarray(noise((8, 8, 3))), "WEBP"),
    "TIFF": encoded(Image.fromarray(noise((8, 8, 3))), "TIFF"),
    "BMP": encoded(Image.fromarray(noise((8, 8, 3))), "BMP"),
    "another size": encoded(Image.fromarray(noise((9, 7))), "PNG"),
    "text behind the end": PNG + b"some text",
    "an unknown chunk": with_chunk(b"teSt", b"x" * 100),
    "EXIF that is none": with_chunk(b"eXIf", b"\xff" * 40),
}  # fmt: skip

NAMED = {
    "zero bytes": (b"", "it is empty"),
    "text": (b"hello", "cannot be read as a picture"),
    "HTML of a failed download": (b"<!DOCTYPE html><html>404</html>", "cannot be read as a picture"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "cannot be read as a picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\n", "it is none of PNG"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated|cannot be read"),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated|cannot be read"),
    "a header alone": (PNG[:33], "cannot be read as a picture"),
    "a signature alone": (PNG[:8], "cannot be read as a picture"),
    "no pixels": (png_header(0, 8), "cannot be read as a picture"),
    "400 million pixels of one colour": (None, "has 400,000,000 pixels; at most 67,108,864 are decoded"),
    "more pixels than there are numbers": (png_header(2**31 - 1, 2**31 - 1), "cannot be read|pixels; at most"),
    "a text chunk that unpacks to 64 MiB": (
        with_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**26))), "cannot be read as a picture",
    ),
}  # fmt: skip


def one_colour(side):
    """A PNG of side x side black pixels, a few hundred kilobytes, written without ever holding them."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture
def folder(tmp_path):
    """A sound folder of two classes."""
    return write_folder(tmp_path / "images", {"a": 4, "b": 4})


def named(root, message, **options):
    """The folder is read without `odd.png`, which is named with its reason."""
    data = load(folder_config(root, **options), seed=0)
    assert sum(map(len, (data.train, data.val, data.test))) == 8
    (entry,) = data.left_out
    assert entry.name.endswith("odd.png") and entry.kind == skipped_files.UNREADABLE
    assert re.search(message, entry.reason), entry.reason
    assert data.image_shape == (*[options.get("image_size", 8)] * 2, 1)


@pytest.mark.parametrize("name", USED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_odd_image_is_used(folder, name):
    (folder / "b" / "odd.png").write_bytes(USED[name])
    data = load(folder_config(folder), seed=0)
    assert sum(map(len, (data.train, data.val, data.test))) == 9
    assert data.image_shape[:2] == (8, 8)


@pytest.mark.parametrize("name", NAMED)
def test_an_unusable_image_is_named(folder, name):
    content, message = NAMED[name]
    (folder / "b" / "odd.png").write_bytes(one_colour(20_000) if content is None else content)
    for options in ({}, {"image_size": 4}):
        named(folder, message, **options)


PLACED = {
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "no such file|levels of symbolic"),
    "a pipe": (lambda path: os.mkfifo(path), "no such file|no regular file"),
    "a device without end": (lambda path: path.symlink_to("/dev/zero"), "no such file|no regular file"),
}


@pytest.mark.parametrize("kind", PLACED)
def test_what_is_called_an_image_and_is_none_is_named(folder, kind):
    make, message = PLACED[kind]
    make(folder / "a" / "odd.png")
    named(folder, message)


def test_an_unreadable_image_is_named(folder, monkeypatch):
    """As an ordinary user would meet it; the superuser reads everything."""
    opened = Image.open

    def refuse(path, **options):
        if Path(path).name == "001.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, **options)

    monkeypatch.setattr(pictures.Image, "open", refuse)
    entries = load(folder_config(folder), seed=0).left_out
    assert [entry.name for entry in entries] == ["a/001.png", "b/001.png"]
    assert all("Permission denied" in entry.reason for entry in entries)


def test_links_into_other_places_and_unusual_names_are_followed(folder, tmp_path):
    save(tmp_path / "elsewhere" / "x.png", grey(3))
    (folder / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (folder / "c").symlink_to(folder / "b")  # a class that is another's folder
    for name in (
        "ünï códé 写真 😀.png",
        "new\nline.png",
        "-rf.png",
        "%s{0}.png",
        b"\xff\xfe.png".decode("utf-8", "surrogateescape"),
    ):
        save(folder / "b" / "0.png", grey(9)).rename(folder / "b" / name)
    data = load(folder_config(folder), seed=0)
    assert data.class_names == ("a", "b", "c")
    assert sum(map(len, (data.train, data.val, data.test))) == 5 + 9 + 9
    again = load(folder_config(folder), seed=0)  # from the cache
    assert again.digest == data.digest


def test_a_loop_of_folders_ends(folder):
    (folder / "a" / "up").symlink_to(folder)
    assert load(folder_config(folder), seed=0).class_names == ("a", "b")
    (folder / "loop").symlink_to(folder)
    data = load(folder_config(folder), seed=0)
    assert data.class_names == ("a", "b")
    assert [str(entry) for entry in data.left_out] == [f"{name} (links to a folder above)" for name in ("a/up", "loop")]


def test_images_too_large_for_memory_are_refused_before_they_take_it(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "images", {"a": 3, "b": 3}, shape=(4, 1028))
    assert load(folder_config(root), seed=0).image_shape == (8, 8, 1)  # no network takes 1028 pixels a side
    monkeypatch.setattr(decoding.os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else 100)
    monkeypatch.setattr(decoding, "_DECODER_VERSION", 99)  # not from the cache
    with pytest.raises(DataError, match="The 6 images of .* take .* GiB of memory(.|\n)*`image_size`"):
        load(folder_config(root), seed=0)


@pytest.mark.parametrize("name", ["data_dir", "cache_dir"])
def test_the_home_of_nobody_is_a_name_like_others(folder, name, tmp_path, monkeypatch):
    """`Path.expanduser` raises RuntimeError."""
    monkeypatch.chdir(tmp_path)
    config = folder_config(folder, **{name: "~no_such_user/x"})
    if name == "data_dir":
        with pytest.raises(DataError, match="There is no folder ~no_such_user/x"):
            load(config, seed=0)
    else:
        assert load(config, seed=0).num_classes == 2


def test_a_cache_of_something_else_is_decoded_again(folder):
    data = load(folder_config(folder), seed=0)
    (cache,) = (folder.parent / "cache").iterdir()
    for arrays in (
        {},
        {"images": np.zeros((8, 8), np.uint8)},
        {"images": np.zeros((3, 8, 8, 1), np.uint8)},
        {"x": np.zeros(8)},
    ):
        files.save_npz(cache, arrays)
        assert load(folder_config(folder), seed=0).digest == data.digest


def folders(root, rng):
    """A random image folder with anything in it; returns what was odd."""
    layout = rng.choice(["", "train/", "train/ test/"]).split() or [""]
    odd = []
    for split in layout:
        for name in rng.sample(["a", "b", "ç", ".c", "__d", "e f"], rng.randint(1, 5)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(rng.choice([0, 2, *[6] * 12])):
                save(folder / f"{number}.png", grey(number))
            for kind in rng.sample([*USED, *NAMED, *PLACED], rng.choice([0, 0, 0, 0, 0, 1, 2])):
                path = folder / f"odd{len(odd)}{rng.choice(['.png', '.PNG', '.jpg', '.jpeg', '.txt', ''])}"
                odd.append(path)
                if kind in PLACED:
                    PLACED[kind][0](path)
                else:
                    content = USED.get(kind) or NAMED.get(kind, (b"",))[0]
                    path.write_bytes(one_colour(9000) if content is None else content)
    return odd


@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 2000), marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_folder_is_a_data_set_or_named(tmp_path, seeds):
    outcomes = {True: 0, False: 0}
    for seed in seeds:
        rng = random.Random(seed)
        root = tmp_path / str(seed) / "images"
        root.mkdir(parents=True)
        folders(root, rng)
        config = folder_config(root, image_size=rng.choice([0, 0, 4]), val_fraction=rng.choice([0.1, 0.5]))
        try:
            data = load(config, seed=seed)
        except DataError as error:
            assert str(root) in str(error) or "Class '" in str(error)
            outcomes[False] += 1
        else:
            assert data.image_shape[:2] == ((4, 4) if config.image_size else (8, 8))
            used = sum(map(len, (data.train, data.val, data.test)))
            assert used + len(data.left_out) == sum(not path.is_dir() for path in root.rglob("*"))
            assert all(len(np.unique(split.labels)) <= data.num_classes for split in (data.train, data.val, data.test))
            outcomes[True] += 1
    print(f"\n{outcomes[True]} folders loaded, {outcomes[False]} refused")
    assert min(outcomes.values()) > 5


# Real processes.


def command_lines(count, tmp_path):
    """Random command lines of the scripts, most of them wrong in one place or two."""
    rng = random.Random(5)
    names = {
        "search.py": ["--stage=enas", "--stage=lds", "--stage=lds_location"],
        "train.py": ["--stage=base", "--stage=final", f"--genotype={tmp_path / 'arc.txt'}"],
        "prune.py": ["--threshold=0.02", "--scope=layer"],
        "pipeline.py": ["--base_epochs=3"],
        "report.py": [],
    }
    odd = [
        "--epochs=0", "--epochs=1e400", "--lr_max=nan", "--seed=-1", "--seed=99999999999999999999", "--preset=",
        "--stage=", "--dataset=nothing_like_it", "--dataset=folder", "--dataset=../x",
        "--dataset=folder --data_dir=/dev/null", "--dataset=folder --data_dir=~nobody/x", "--image_size=7",
        "--image_size=2000", "--train_limit=3", "--eval_limit=1",
        "--batch_size=65536", "--cutout=1024", "--ops=", "--ops=,", "--ops=conv3x3,conv3x3", "--num_layers=65",
        "--flip=maybe", "--no_such", "-x", "stray", "--flagfile=/no/such", "--flagfile=/", "--overwrite=maybe",
        "--model_dir=/dev/null", "--model_dir=/dev/null/x", "--model_dir=" + "x" * 5000, "--genotype=/",
        "--genotype=/dev/null", "--genotype=/no/such", "--threshold=inf", "--threshold=-1", "--sparsity=1",
        "--pad=200", "--precision=int8", "--épochs=3",
    ]  # fmt: skip
    for number in range(count):
        script = rng.choice(list(names))
        line = [
            script,
            *rng.sample(names[script], min(len(names[script]), rng.randint(0, 2))),
            *" ".join(rng.sample(odd, rng.randint(1, 2))).split(" "),
        ]
        if not any(argument.startswith("--preset") for argument in line) and script != "report.py":
            line.append("--preset=smoke")
        if not any(argument.startswith("--model_dir") for argument in line):
            line.append(f"--model_dir={tmp_path / 'runs' / str(number)}")
        yield line


@pytest.mark.slow
def test_real_processes_refuse_wrong_command_lines_without_leaving_anything(tmp_path):
    (tmp_path / "arc.txt").write_text("0 1 2 3")  # four numbers make no rows
    count = 0
    for line in command_lines(40, tmp_path):
        result = subprocess.run(
            [sys.executable, *line], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 2, (line, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr, (line, result.stderr)
        assert result.stderr.strip(), line
        assert not (tmp_path / "runs").exists(), line
        count += 1
    print(f"\n{count} processes refused")
