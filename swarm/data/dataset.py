"""Samples with their classes' names, checked once at the door."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.specification import Specification, check_class_names

MAX_CLASSES = 10_000
_NUMBERS = "convert them to an array of numbers: numpy.asarray(values, dtype)"
_FORM = "inputs [N, *shape] and labels [N]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Raw inputs uint8 or float32 [N, *shape] and labels int64 [N], indices into class_names.

    Every class has samples; classes are compared by name, never by number (see `labels_among`).
    `scale` and `offset` are the source's own preprocessing (a net sees raw * scale + offset), a proposal for
    the specification of a swarm that is founded on these data.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str
    scale: float = 1.0
    offset: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape[1:])

    def class_counts(self) -> dict[str, int]:
        """Return the samples of each class, by name."""
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, counts, strict=True))

    def subset(self, rows: NDArray[np.int64], name: str = "") -> "Dataset":
        """Return the samples at rows, with the classes that these have."""
        present, labels = np.unique(self.labels[rows], return_inverse=True)
        return replace(
            self,
            inputs=self.inputs[rows],
            labels=labels.astype(np.int64),
            class_names=tuple(self.class_names[index] for index in present),
            name=name or self.name,
        )

    def of_classes(self, names: Sequence[str], name: str = "") -> "Dataset":
        """Return the samples of the named classes; InvalidInputError for a name that is not here."""
        unknown = sorted(set(names) - set(self.class_names))
        if unknown:
            raise InvalidInputError(
                f"data {self.name}",
                found=f"no class {unknown[0]!r}",
                expected=f"one of {_some(self.class_names)}",
                remedy="name classes that the data have",
            )
        wanted = [self.class_names.index(each) for each in names]
        return self.subset(np.flatnonzero(np.isin(self.labels, wanted)), name)

    def labels_among(self, class_names: Sequence[str]) -> NDArray[np.int64]:
        """Return the labels as indices into class_names, int64 [N]; -1 where a class is not among them."""
        column = {each: index for index, each in enumerate(class_names)}
        return np.array([column.get(each, -1) for each in self.class_names], dtype=np.int64)[self.labels]


def make_dataset(
    inputs: object,
    labels: object,
    class_names: object = None,
    *,
    name: str,
    scale: float | None = None,
    offset: float = 0.0,
    min_classes: int = 1,
) -> Dataset:
    """Return checked samples as a Dataset of the classes that they hold.

    labels are integers 0..9999 (or whole floats), or the names themselves. Without class_names an integer's
    name is its digits. Numbers other than uint8 become float32. scale None: 1/255 for uint8, else 1.
    Raises InvalidInputError, naming the data and what is wrong with them.
    """
    subject = f"data {name}"
    values = _as_inputs(inputs, subject)
    indices, names = _as_labels(labels, class_names, subject)
    if len(values) != len(indices):
        raise ShapeMismatchError(
            subject,
            found=f"{len(values)} inputs but {len(indices)} labels",
            expected="as many of one as of the other",
            remedy="give one label for each input, in the same order",
        )
    if not len(values):
        raise InvalidInputError(
            subject, found="no samples", expected="at least one", remedy="bring data with samples in them"
        )
    try:
        check_class_names(names)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{subject}, class names",
            found=error.found,
            expected=error.expected,
            remedy="rename those classes",
        ) from error
    everything = Dataset(
        inputs=values,
        labels=indices,
        class_names=names,
        name=name,
        scale=float(scale) if scale is not None else (1 / 255 if values.dtype == np.uint8 else 1.0),
        offset=float(offset),
    )
    dataset = everything.subset(np.arange(len(indices)))
    if len(dataset.class_names) < min_classes:
        raise InvalidInputError(
            subject,
            found=f"one class only, {dataset.class_names[0]!r}",
            expected=f"samples of at least {min_classes} classes",
            remedy="add samples of another class: an expert learns to tell classes apart",
        )
    return dataset


def check_fits(dataset: Dataset, specification: Specification) -> None:
    """Raise by name where the dataset breaks the specification: shape, dtype, classes, or too few samples."""
    check_form(dataset, specification)
    check_enough(len(dataset), specification, f"data {dataset.name}")


def check_enough(samples: int, specification: Specification, subject: str) -> None:
    """Raise InvalidInputError where a leaf may not stand for so few samples; subject says whose they are."""
    if samples < specification.min_leaf_count:
        raise InvalidInputError(
            subject,
            found=f"{samples} sample{'' if samples == 1 else 's'}",
            expected=f"at least {specification.min_leaf_count}, the least that a leaf may stand for",
            remedy="bring more samples",
        )


def check_form(dataset: Dataset, specification: Specification) -> None:
    """Raise by name where samples, however few, are none of the specification's: shape, dtype, classes."""
    subject = f"data {dataset.name}"
    if dataset.input_shape != specification.input_shape:
        raise ShapeMismatchError(
            f"{subject}, input shape",
            found=str(list(dataset.input_shape)),
            expected=f"{list(specification.input_shape)}, as swarm {specification.swarm} specifies",
            remedy="reshape or crop your inputs to that shape",
        )
    if dataset.inputs.dtype != np.dtype(specification.input_dtype):
        raise ShapeMismatchError(
            f"{subject}, dtype",
            found=str(dataset.inputs.dtype),
            expected=f"{specification.input_dtype}, as swarm {specification.swarm} specifies",
            remedy=f"convert your inputs to the swarm's raw values (a net sees raw * {specification.scale:g}"
            f" + {specification.offset:g})",
        )
    specification.with_classes(dataset.class_names)


def as_array(value: object, subject: str) -> NDArray[np.generic]:
    """Return value as an array of numbers or strings; InvalidInputError for objects or ragged lists."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            subject, found=f"{type(value).__name__}: {error}", expected=_FORM, remedy=_NUMBERS
        ) from error
    if array.dtype.kind not in "biufU":
        raise InvalidInputError(
            subject,
            found=f"an array of {array.dtype}",
            expected="numbers; Python objects are never loaded",
            remedy=_NUMBERS,
        )
    return array


def _as_inputs(inputs: object, subject: str) -> NDArray[np.generic]:
    array = as_array(inputs, f"{subject}, inputs")
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"{subject}, inputs", found=f"an array of {array.dtype}", expected="numbers", remedy=_NUMBERS
        )
    if not 2 <= array.ndim <= 5 or 0 in array.shape[1:]:
        raise ShapeMismatchError(
            f"{subject}, inputs",
            found=f"shape {list(array.shape)}",
            expected="[N, *shape] with 1 to 4 sizes in shape",
            remedy="reshape them: the samples along the first axis, as inputs.reshape(N, -1)",
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(bad):
        raise InvalidInputError(
            f"{subject}, inputs",
            found=f"a value that is NaN or infinite in sample {bad[0]} ({len(bad)} such samples)",
            expected="finite numbers",
            remedy="remove or repair these samples",
        )
    return values


def _as_labels(
    labels: object, class_names: object, subject: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    array = as_array(labels, f"{subject}, labels")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeMismatchError(
            f"{subject}, labels",
            found=f"shape {list(array.shape)}",
            expected="[N]",
            remedy="give each input one label; of one-hot labels: labels.argmax(axis=1)",
        )
    if array.dtype.kind == "U":
        return _named_labels(array, class_names, subject)
    whole = array.astype(np.int64) if array.dtype.kind != "f" else _whole(array, subject)
    names = () if class_names is None else _names(class_names, subject)
    bound = len(names) if class_names is not None else MAX_CLASSES
    if bound > MAX_CLASSES:
        raise InvalidInputError(
            f"{subject}, class names",
            found=str(bound),
            expected=f"at most {MAX_CLASSES}",
            remedy="leave names without samples out, or merge classes",
        )
    bad = np.flatnonzero((whole < 0) | (whole >= bound))
    if len(bad):
        raise InvalidInputError(
            f"{subject}, labels",
            found=f"label {array[bad[0]]} in sample {bad[0]}",
            expected=f"0 to {bound - 1}" + (", one for each class name" if class_names is not None else ""),
            remedy="number the classes from 0, or give their names as labels"
            + (", or add the missing class names" if class_names is not None else ""),
        )
    if class_names is not None:
        return whole, names
    present, indices = np.unique(whole, return_inverse=True)
    return indices.astype(np.int64), tuple(str(value) for value in present)


def _whole(labels: NDArray[np.generic], subject: str) -> NDArray[np.int64]:
    values = labels.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)) | (np.abs(values) > 2**53))
    if len(bad):
        raise InvalidInputError(
            f"{subject}, labels",
            found=f"label {values[bad[0]]} in sample {bad[0]}",
            expected="whole numbers or names: classes, not measurements",
            remedy="number the classes from 0, or give their names as labels",
        )
    return values.astype(np.int64)


def _named_labels(
    labels: NDArray[np.generic], class_names: object, subject: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    found, indices = np.unique(labels.astype(np.str_), return_inverse=True)
    names = tuple(str(value) for value in found)
    if len(names) > MAX_CLASSES:
        raise InvalidInputError(
            f"{subject}, labels",
            found=f"{len(names)} names",
            expected=f"at most {MAX_CLASSES}",
            remedy="merge classes: are these names, or texts?",
        )
    if class_names is not None:
        unknown = sorted(set(names) - set(_names(class_names, subject)))
        if unknown:
            raise InvalidInputError(
                f"{subject}, labels",
                found=f"label {unknown[0]!r}",
                expected="one of the class names",
                remedy="mend those labels, or add the name to the class names",
            )
    return indices.astype(np.int64), names


def _names(class_names: object, subject: str) -> tuple[str, ...]:
    array = as_array(class_names, f"{subject}, class names")
    if array.ndim != 1:
        raise ShapeMismatchError(
            f"{subject}, class names",
            found=f"shape {list(array.shape)}",
            expected="[C]",
            remedy="give the names as one list",
        )
    return tuple(str(value) for value in array.astype(np.str_))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
