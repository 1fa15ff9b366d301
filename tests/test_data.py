"""Data sets for `kwarmup train`: digits, .npz, IDX folders whole and damaged, functions of the user."""

import gzip
import struct

import numpy as np
import pytest

from kwarmup.cli import idx
from kwarmup.cli.data import Data, load
from kwarmup.cli.errors import UserError

IMAGES = np.arange(6 * 5 * 4, dtype="uint8").reshape(6, 5, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2], "uint8")
CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder, name, array, packed=False):
    folder.mkdir(exist_ok=True)
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    return path


def write_folder(folder, packed=False, test=True):
    write_idx(folder, "train-images-idx3-ubyte", IMAGES, packed)
    write_idx(folder, "train-labels-idx1-ubyte", LABELS, packed)
    if test:
        write_idx(folder, "t10k-images-idx3-ubyte", IMAGES[:2], packed)
        write_idx(folder, "t10k-labels-idx1-ubyte", LABELS[:2], packed)
    return folder


# Digits


def test_digits_are_whole_and_split_the_same_way_each_time():
    first, second = load("digits"), load("digits")
    assert (len(first.x), len(first.x_validation)) == (1438, 359)
    assert first.x.shape[1:] == (8, 8, 1)
    assert (first.x.min(), first.x.max()) == (0, 1)
    assert set(first.y) == set(first.y_validation) == set(range(10))
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y_validation, second.y_validation)


def test_no_example_is_in_both_parts():
    data = load("digits")
    # Among all 1,797 digits no two are equal, so an example held out twice would show here.
    assert len(np.unique(np.concatenate([data.x, data.x_validation]), axis=0)) == 1797


# IDX files


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_folder_named_as_mnist_is_read(tmp_path, packed):
    data = load(str(write_folder(tmp_path / "tiny", packed)))
    assert data.name == "tiny"
    np.testing.assert_allclose(data.x * 255, IMAGES, rtol=1e-6)
    np.testing.assert_array_equal(data.y, LABELS)
    assert len(data.x_validation) == len(data.y_validation) == 2
    assert data.notes == ("Pixels are scaled from 0–255 to 0–1.",)


def test_without_a_test_part_one_in_five_is_held_out(tmp_path):
    data = load(str(write_folder(tmp_path / "tiny", test=False)))
    assert (len(data.x), len(data.x_validation)) == (5, 1)
    assert "One in five" in data.notes[-1]


@pytest.mark.parametrize("dtype", CODES)
def test_every_type_of_number_is_read_in_its_own_order(tmp_path, dtype):
    array = np.array([[1, 2, 3], [4, 5, 100]], dtype)
    read = idx.read(write_idx(tmp_path, "some", array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype)


WHOLE = idx_bytes(IMAGES)
DAMAGED = [
    (b"", "is not an IDX file: it begins with nothing"),
    (b"\0\0", "is not an IDX file: it begins with 00 00"),
    (b"PK\x03\x04" + WHOLE, "is not an IDX file: it begins with 50 4b 03 04"),
    (b"\0\0\x07\x03" + WHOLE[4:], "is not an IDX file: it begins with 00 00 07 03"),
    (WHOLE[:10], "ends within its header: 10 bytes, and 3 axes need 16"),
    (WHOLE[:-1], "holds 119 bytes of numbers, and its header says 6 × 5 × 4 = 120"),
    (WHOLE + b"\0", "holds 121 bytes of numbers"),
    (WHOLE[:4] + struct.pack(">I", 2**31) + WHOLE[8:], "2147483648 × 5 × 4 = 42,949,672,960"),
]


@pytest.mark.parametrize(("content", "words"), DAMAGED, ids=[words for _, words in DAMAGED])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_damaged_file_is_told(tmp_path, content, words, packed):
    folder = write_folder(tmp_path / "tiny", packed)
    path = folder / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError) as caught:
        load(str(folder))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(WHOLE)[:-10], b"not gzip at all", gzip.compress(WHOLE)[:20] + b"\xff" * 40],
    ids=["cut", "not gzip", "garbled"],
)
def test_a_damaged_archive_is_told(tmp_path, content):
    folder = write_folder(tmp_path / "tiny", packed=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load(str(folder))


def test_a_folder_without_the_files_says_which_are_looked_for(tmp_path):
    write_idx(tmp_path, "train-images-idx3-ubyte", IMAGES)
    with pytest.raises(UserError, match=r"no IDX files in .*train-labels-idx1-ubyte\[\.gz\] are looked for"):
        load(str(tmp_path))


def test_images_in_the_place_of_labels(tmp_path):
    folder = write_folder(tmp_path / "tiny")
    write_idx(folder, "train-labels-idx1-ubyte", IMAGES)
    with pytest.raises(UserError, match="images have 3 axes and labels 3; at least 2 and exactly 1"):
        load(str(folder))


def test_fewer_labels_than_images(tmp_path):
    folder = write_folder(tmp_path / "tiny")
    write_idx(folder, "train-labels-idx1-ubyte", LABELS[:4])
    with pytest.raises(UserError, match="tiny: x_train has 6 examples and y_train 4; they must be as many"):
        load(str(folder))


# npz

X, Y = np.linspace(0, 1, 40).reshape(10, 4), np.arange(10) % 2
NPZ = [
    (dict(x_train=X, y_train=Y), (8, 2), 1),
    (dict(x_train=X, y_train=Y, x_val=X[:3], y_val=Y[:3]), (10, 3), 0),
    (dict(x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4]), (10, 4), 0),
    (dict(x_train=X, y_train=Y, x_val=X[:3], y_val=Y[:3], x_test=X[:4], y_test=Y[:4]), (10, 3), 0),
]


@pytest.mark.parametrize(("arrays", "sizes", "notes"), NPZ, ids=[" ".join(arrays) for arrays, *_ in NPZ])
def test_an_npz_file_is_read_as_it_is(tmp_path, arrays, sizes, notes):
    np.savez(tmp_path / "some.npz", **arrays)
    data = load(str(tmp_path / "some.npz"))
    assert data.name == "some"
    assert (len(data.x), len(data.x_validation)) == sizes
    assert data.x.max() <= 1
    assert len(data.notes) == notes


def test_images_of_bytes_are_scaled_and_other_bytes_are_not(tmp_path):
    np.savez(tmp_path / "images.npz", x_train=IMAGES, y_train=LABELS, x_val=IMAGES, y_val=LABELS)
    np.savez(tmp_path / "tokens.npz", x_train=IMAGES[:, 0], y_train=LABELS, x_val=IMAGES[:, 0], y_val=LABELS)
    images, tokens = load(str(tmp_path / "images.npz")), load(str(tmp_path / "tokens.npz"))
    np.testing.assert_allclose(images.x_validation * 255, IMAGES, rtol=1e-6)
    assert "scaled from 0–255 to 0–1" in images.notes[0]
    np.testing.assert_array_equal(tokens.x, IMAGES[:, 0])
    assert tokens.notes == ()


WRONG_NPZ = [
    (dict(x=X), "has no x_train and no y_train. It must hold x_train and y_train"),
    (dict(x_train=X), "has no y_train"),
    (dict(x_train=X), "It holds: x_train"),
    (dict(x_train=X, y_train=Y, x_val=X), "has x_val but no y_val"),
    (dict(x_train=X, y_train=Y[:9]), "x_train has 10 examples and y_train 9"),
    (dict(x_train=X, y_train=Y, x_val=X[:, :3], y_val=Y), "has the shape (4,) and one of x_val (3,)"),
    (dict(x_train=X[:0], y_train=Y[:0]), "x_train is empty"),
    (dict(x_train=X[:4], y_train=Y[:4]), "4 examples are too few to train on and to validate with"),
    (dict(x_train=np.float64(1), y_train=Y), "x_train must be an array of numbers, one row an example"),
    (dict(x_train=X, y_train=np.array(["a"] * 10)), "y_train must be an array of numbers"),
    (dict(x_train=np.array([{}] * 10), y_train=Y), "cannot be read as an .npz file"),
]


@pytest.mark.parametrize(("arrays", "words"), WRONG_NPZ, ids=[words for _, words in WRONG_NPZ])
def test_an_npz_file_that_will_not_do(tmp_path, arrays, words):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(UserError) as caught:
        load(str(tmp_path / "some.npz"))
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04 and no more"])
def test_a_file_that_is_no_npz(tmp_path, content):
    (tmp_path / "some.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.npz cannot be read as an \.npz file"):
        load(str(tmp_path / "some.npz"))


def test_a_single_array_named_npz(tmp_path):
    with (tmp_path / "some.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(UserError, match=r"cannot be read as an \.npz file"):
        load(str(tmp_path / "some.npz"))


# Functions

MODULE = """
import numpy as np
x, y = np.ones((10, 3)), np.zeros(10, int)
def pairs(): return (x, y), (x[:2], y[:2])
def single(): return x.tolist(), y.tolist()
def lists(): return [[x, y], [x[:2], y[:2]]]
def three(): return x, y, y
def nothing(): return None
def ragged(): return [[1], [1, 2]] * 5, y
def faulty(): raise KeyError("mine")
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"some_code_{tmp_path.name.replace('-', '_')}"  # a name that no other test has imported
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(("function", "sizes"), [("pairs", (10, 2)), ("lists", (10, 2)), ("single", (8, 2))])
def test_a_function_gives_the_data(module, function, sizes):
    data = load(f"{module}:{function}")
    assert data.name == function
    assert (len(data.x), len(data.x_validation)) == sizes


WRONG_FUNCTION = [
    ("three", "must return (x_train, y_train), (x_val, y_val), or x_train, y_train; it returned tuple"),
    ("nothing", "it returned NoneType"),
    ("ragged", "each an array"),
    ("number", "'number' is no function in"),
    ("missing", "'missing' does not exist in"),
    ("", "'the function' does not exist in"),
]


@pytest.mark.parametrize(("function", "words"), WRONG_FUNCTION)
def test_a_function_that_will_not_do(module, function, words):
    with pytest.raises(UserError) as caught:
        load(f"{module}:{function}")
    assert words in str(caught.value)


def test_what_a_function_raises_keeps_its_traceback(module):
    with pytest.raises(KeyError, match="mine"):
        load(f"{module}:faulty")


def test_a_module_that_is_missing_and_one_that_lacks_another(module, tmp_path):
    with pytest.raises(UserError, match="--data no_such_thing:f: there is no module 'no_such_thing'"):
        load("no_such_thing:f")
    (tmp_path / f"{module}_b.py").write_text("import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load(f"{module}_b:f")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.npz", "There is no file missing.npz"),
        ("cifar", "There is no data 'cifar'. It may be: digits, an .npz file, a folder of IDX files, or"),
        ("setup.csv", "setup.csv is neither an .npz file nor a folder of IDX files"),
    ],
)
def test_data_that_is_not_there(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.csv").write_text("")
    with pytest.raises(UserError) as caught:
        load(source)
    assert words in str(caught.value)


def test_another_shape_of_as_many_numbers():
    data = Data("some", X, Y, X, Y)
    assert data.reshaped((4,)) is data
    assert data.reshaped((2, 2, 1)).x_validation.shape == (10, 2, 2, 1)
