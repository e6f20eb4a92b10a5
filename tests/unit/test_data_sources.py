"""Every source gives the same kind of data set, and every fault in the data is said by name."""

import gzip
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from swarm.data.dataset import check_fits, make_dataset
from swarm.data.sources import Dataset, load_inputs, load_test, load_training, save_npz
from swarm.domain.errors import InvalidInputError, NotFoundError, ShapeMismatchError
from swarm.domain.ids import Digest, SwarmId
from swarm.domain.specification import Specification, TrunkReference
from swarm.domain.tensors import ModuleEntry

DIGEST = Digest("0" * 64)
X = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)
Y = np.array([0, 1, 0, 1, 2, 2])


def specification(**changes: object) -> Specification:
    module = ModuleEntry(name="m", digest=DIGEST, tensors=())
    trunk = TrunkReference(
        factory="identity",
        feature_size=4,
        weights=module,
        probe=module,
        tolerance=0.0,
        fixed_point=1.0,
        has_constant=False,
        digest=DIGEST,
    )
    fields: dict[str, object] = {
        "swarm": SwarmId("lab"),
        "version": 1,
        "input_shape": (2, 2),
        "input_dtype": "uint8",
        "scale": 1 / 255,
        "offset": 0.0,
        "task": "classification",
        "class_names": ("0", "1", "2"),
        "accept_new_classes": False,
        "trunk": trunk,
        "min_leaf_count": 5,
        "max_leaves_per_owner": 4,
        "max_prototypes_per_leaf": 60,
    }
    return Specification(**{**fields, **changes})  # type: ignore[arg-type]


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_folder(folder: Path, ending: str = ".gz") -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        write_idx(folder / f"{split}-images-idx3-ubyte{ending}", X[rows])
        write_idx(folder / f"{split}-labels-idx1-ubyte{ending}", Y[rows])
    return folder


# digits


def test_digits_are_all_that_scikit_learn_has() -> None:
    bunch = load_digits()
    of_label = [
        sorted(
            image.tobytes()
            for part in (load_training("digits"), load_test("digits"))
            for image in part.inputs[part.labels == label]
        )
        for label in range(10)
    ]
    assert of_label == [
        sorted(image.tobytes() for image in bunch.images[bunch.target == label].astype(np.uint8))
        for label in range(10)
    ]


def test_digits_are_split_once_and_for_all_and_every_class_is_in_both_parts() -> None:
    training, test = load_training("digits"), load_test("digits")
    assert (len(training), len(test)) == (1438, 359)
    assert training.input_shape == (8, 8) and training.inputs.dtype == np.uint8 and training.scale == 1 / 16
    assert training.class_names == test.class_names == tuple("0123456789")
    seen = {image.tobytes() for image in training.inputs}
    assert not any(image.tobytes() in seen for image in test.inputs)


# IDX folders


@pytest.mark.parametrize("ending", [".gz", ""])
def test_an_idx_folder_is_read_split_by_split(tmp_path: Path, ending: str) -> None:
    folder = idx_folder(tmp_path / "mnist", ending)
    training, test = load_training(str(folder)), load_test(str(folder))
    assert np.array_equal(training.inputs, X[:4]) and training.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(test.inputs, X[4:]) and test.class_names == ("2",)


def test_training_does_not_open_the_test_files(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "mnist")
    for file in folder.glob("t10k*"):
        file.write_bytes(b"damaged")
    assert len(load_training(str(folder))) == 4
    with pytest.raises(InvalidInputError, match="t10k-images"):
        load_test(str(folder))


def test_an_idx_folder_may_name_its_classes(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "fashion")
    (folder / "class_names.txt").write_text("shirt\ncoat\nboot\n")
    assert load_training(str(folder)).class_names == ("shirt", "coat")
    assert load_test(str(folder)).class_names == ("boot",)


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "mnist")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(NotFoundError, match=r"train-labels-idx1-ubyte.*put the missing file there"):
        load_training(str(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: gzip.compress(gzip.decompress(data)[:-3]), "13 bytes of values; expected 16"),
        (lambda data: gzip.compress(gzip.decompress(data) + b"x"), "more bytes than promised"),
        (lambda data: data[:-6], "damaged gzip data"),
        (lambda data: b"plain text", "damaged gzip data"),
        (lambda data: gzip.compress(b"\x89PNG" + bytes(20)), "begins 89504e47"),
        (lambda data: gzip.compress(b""), "a file that begins"),
        (lambda data: gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)), "sizes"),
        (lambda data: gzip.compress(struct.pack(">HBBI", 0, 8, 3, 2)), "sizes"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage, message: str) -> None:
    folder = idx_folder(tmp_path / "mnist")
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InvalidInputError, match=rf"train-images.*{message}") as caught:
        load_training(str(folder))
    assert caught.value.remedy


# .npz files


def test_an_npz_file_holds_both_splits(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(
        path, x_train=X[:4], y_train=Y[:4], x_test=X[4:], y_test=Y[4:], class_names=["ant", "bee", "fly"]
    )
    assert load_training(str(path)).class_names == ("ant", "bee")
    assert load_test(str(path)).class_counts() == {"fly": 2}


def test_an_npz_file_of_x_and_y_is_training_data_only(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=Y)
    assert len(load_training(str(path))) == 6
    with pytest.raises(NotFoundError, match=r"test samples of .*no x_test; .*add x_test and y_test"):
        load_test(str(path))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "shard.npz"
    training = make_dataset(X[:4], ["b", "a", "b", "a"], name="mine", scale=1 / 16, offset=-0.5)
    test = make_dataset(X[4:], ["c", "a"], name="mine")
    save_npz(path, training, test)
    again, tested = load_training(str(path)), load_test(str(path))
    assert np.array_equal(again.inputs, training.inputs) and again.inputs.dtype == np.uint8
    assert [again.class_names[row] for row in again.labels] == ["b", "a", "b", "a"]
    assert (again.scale, again.offset) == (1 / 16, -0.5)
    assert [tested.class_names[row] for row in tested.labels] == ["c", "a"]
    assert [file.name for file in path.parent.iterdir()] == ["shard.npz"]


def test_string_labels_are_the_class_names(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=np.array(["oak", "elm", "oak", "elm", "ash", "ash"]))
    dataset = load_training(str(path))
    assert [dataset.class_names[row] for row in dataset.labels] == ["oak", "elm", "oak", "elm", "ash", "ash"]


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    path, marker = tmp_path / "data.npz", tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    np.savez(path, x=np.array([Trap(), Trap()], dtype=object), y=np.array([0, 1]))
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_training(str(path))
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_npz_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidInputError, match=r"data\.npz.*found"):
        load_training(str(path))


def test_a_flipped_byte_in_an_npz_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=X, y=Y)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x.npy").header_offset
    data = bytearray(path.read_bytes())
    data[start + 180] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidInputError, match=r"data\.npz.*found"):
        load_training(str(path))


def test_an_npz_file_with_other_arrays_says_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=X, y=Y)
    with pytest.raises(InvalidInputError, match="arrays images, y; no x"):
        load_training(str(path))


# package.module:dataset


def user_module(folder: Path, name: str, body: str) -> tuple[str, ...]:
    (folder / f"{name}.py").write_text(f"import numpy as np\n{body}\n")
    return (str(folder),)


def test_a_users_function_is_called_with_the_split(tmp_path: Path) -> None:
    body = """
def dataset(split):
    size = 4 if split == "train" else 2
    return np.zeros((size, 3), np.float64), np.arange(size) % 2, ["off", "on"]
"""
    paths = user_module(tmp_path, "user_split", body)
    training = load_training("user_split:dataset", paths)
    assert len(training) == 4 and training.class_names == ("off", "on")
    assert training.inputs.dtype == np.float32 and training.scale == 1.0
    assert len(load_test("user_split:dataset", paths)) == 2
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    "result",
    [
        "(x, y)",
        "{'inputs': x, 'labels': y}",
        "{'x': x, 'y': y, 'class_names': ['off', 'on']}",
        "(x.tolist(), y.tolist())",
    ],
)
def test_a_users_function_may_return_several_forms(tmp_path: Path, result: str) -> None:
    name = f"user_form_{abs(hash(result))}"
    body = f"def dataset():\n    x, y = np.ones((4, 3)), np.array([0, 1, 0, 1])\n    return {result}"
    paths = user_module(tmp_path, name, body)
    assert len(load_training(f"{name}:dataset", paths)) == 4
    with pytest.raises(NotFoundError, match="without the parameter `split`"):
        load_test(f"{name}:dataset", paths)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("def dataset(): return 7", InvalidInputError, "found int; expected"),
        ("def dataset(): return ([1], [2], [3], [4])", InvalidInputError, "tuple of 4"),
        ("def dataset(): return {'inputs': [1]}", InvalidInputError, "dict of 1"),
        ("def dataset(): return [[[1], [2]], [0, 1]]", InvalidInputError, "list of 2"),
        ("def dataset(): return ([[1], [2, 3]], [0, 1])", InvalidInputError, "inputs: found"),
        ("def dataset(): return ([object()], [0])", InvalidInputError, "Python objects are never loaded"),
        (
            "def dataset(): raise RuntimeError('disk on fire')",
            InvalidInputError,
            "RuntimeError: disk on fire",
        ),
        ("data_set = 1", NotFoundError, "no function dataset"),
        ("import a_module_that_is_not_there", InvalidInputError, "a_module_that_is_not_there.*install"),
        ("def (", InvalidInputError, "SyntaxError"),
    ],
)
def test_a_users_function_that_fails_is_named(tmp_path: Path, body: str, error: type, message: str) -> None:
    name = f"user_bad_{abs(hash(body))}"
    with pytest.raises(error, match=rf"{name}.*{message}"):
        load_training(f"{name}:dataset", user_module(tmp_path, name, body))


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"module nowhere\.data: found no module nowhere"):
        load_training("nowhere.data:dataset")


# faults in the data, whatever the source


@pytest.mark.parametrize(
    ("inputs", "labels", "names", "message"),
    [
        (X, [0] * 6, None, "one class only, '0'; expected samples of at least 2 classes; add samples"),
        (X[:0], Y[:0], None, "no samples"),
        (X, Y[:5], None, "6 inputs but 5 labels"),
        (np.where(X == 9, np.nan, X), Y, None, "NaN or infinite in sample 2 .1 such"),
        (np.where(X == 9, np.inf, X), Y, None, "NaN or infinite in sample 2"),
        (np.where(X == 9, 1e300, X), Y, None, "NaN or infinite in sample 2"),
        (X, Y + 0.5, None, "label 0.5 in sample 0; expected whole numbers"),
        (X, np.where(Y == 2, np.nan, Y), None, "label nan in sample 4"),
        (X, Y - 1, None, "label -1 in sample 0; expected 0 to 9999"),
        (X, Y + 20_000, None, "label 20000 in sample 0; expected 0 to 9999"),
        (X, Y.astype(np.uint64) + np.uint64(2**63), None, "labels: found label 92"),
        (X, Y, ["a", "b"], "label 2 in sample 4; expected 0 to 1, one for each class name"),
        (X, Y, ["a", "b", "b"], "class names: found a name twice"),
        (X, Y, ["a", "b", " c"], "class names: found ' c'"),
        (X, ["a", "b", "a", "b", "c", "z"], ["a", "b", "c"], "label 'z'"),
        (X, np.eye(6), None, "labels: found shape"),
        (X.astype(object), Y, None, "an array of object"),
        (X.astype(complex), Y, None, "an array of complex"),
        (X.astype(str), Y, None, "inputs: found an array of <U"),
        (np.arange(6), Y, None, "inputs: found shape"),
        (np.zeros((6, 0)), Y, None, "inputs: found shape"),
        (np.zeros((6, 1, 1, 1, 1, 1)), Y, None, "inputs: found shape"),
        (None, Y, None, "an array of object"),
        (X, None, None, "an array of object"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_by_name(inputs, labels, names, message: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"data mine.*{message}") as caught:
        make_dataset(inputs, labels, names, name="mine", min_classes=2)
    assert caught.value.remedy


def test_whole_floats_and_columns_are_labels() -> None:
    dataset = make_dataset(X, Y.astype(np.float64)[:, None], name="mine")
    assert dataset.labels.tolist() == Y.tolist() and dataset.class_names == ("0", "1", "2")


def test_a_source_that_is_nothing_we_know_lists_what_we_know(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"data nope: .*digits, a folder of IDX files, a file\.npz, or package"
    ):
        load_training("nope")
    with pytest.raises(NotFoundError, match=r"data \./nope\.npz.*; check the path"):
        load_training("./nope.npz")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(InvalidInputError, match=r"a \.csv file.*numpy\.savez"):
        load_training(str(tmp_path / "data.csv"))


# what a data set says of itself


def test_classes_are_compared_by_name_and_only_those_with_samples_count() -> None:
    dataset = make_dataset(X, [5, 3, 5, 3, 9, 9], name="mine")
    assert dataset.class_names == ("3", "5", "9") and dataset.class_counts() == {"3": 2, "5": 2, "9": 2}
    part = dataset.subset(np.array([0, 4]))
    assert part.class_names == ("5", "9") and part.labels.tolist() == [0, 1]
    assert part.labels_among(("9", "7")).tolist() == [-1, 0]
    assert dataset.of_classes(["3", "9"]).class_names == ("3", "9")
    with pytest.raises(InvalidInputError, match="no class '4'"):
        dataset.of_classes(["4"])


def fits(**changes: object) -> Dataset:
    fields = {"inputs": X, "labels": Y, "class_names": None, **changes}
    return make_dataset(fields["inputs"], fields["labels"], fields["class_names"], name="mine")


def test_data_as_specified_fit() -> None:
    check_fits(fits(), specification())
    check_fits(fits(class_names=["x", "y", "z"]), specification(accept_new_classes=True))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (fits(inputs=X[:, :1]), r"input shape: found \[1, 2\]; expected \[2, 2\], as swarm lab specifies"),
        (fits(inputs=X / 255), r"dtype: found float32; expected uint8"),
        (fits(class_names=["x", "y", "z"]), "unknown classes x, y, z; expected one of 0, 1, 2"),
        (fits(inputs=X[:4], labels=Y[:4]), "data mine: found 4 samples; expected at least 5"),
    ],
)
def test_data_that_do_not_fit_the_specification_are_refused_by_name(dataset: Dataset, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_fits(dataset, specification())


# what to ask about


def test_inputs_come_from_npy_and_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", x=X, y=Y)
    np.savez(tmp_path / "only.npz", images=X)
    for name in ("x.npy", "x.npz", "only.npz"):
        assert np.array_equal(load_inputs(str(tmp_path / name)), X)


def test_inputs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.savez(tmp_path / "two.npz", a=X, b=X)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("objects.npy", "words.npy", "two.npz", "text.npy", "empty.npy"):
        with pytest.raises(InvalidInputError, match=rf"input .*{name}") as caught:
            load_inputs(str(tmp_path / name))
        assert caught.value.remedy
    with pytest.raises(NotFoundError, match=r"no such file.*check the path"):
        load_inputs(str(tmp_path / "none.npy"))


def test_the_data_package_loads_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, swarm.data.sources; print({'torch', 'sklearn', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_shape_error_is_an_input_error() -> None:
    assert issubclass(ShapeMismatchError, InvalidInputError)
