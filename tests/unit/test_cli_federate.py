"""What `swarm federate` says of files that hold no weights, and of nets that somebody else builds."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from swarm.cli.federate import _net_is_built_elsewhere, _weights, evaluate
from swarm.data.user_code import load_function
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError, SwarmError


def npz(path: Path, **arrays: object) -> bytes:
    np.savez(path, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return path.read_bytes()


def npy(path: Path) -> bytes:
    held = io.BytesIO()
    np.save(held, np.zeros(3))
    return held.getvalue()


def with_a_text(path: Path) -> bytes:
    npz(path, head=np.zeros(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("about.txt", "hello")
    return path.read_bytes()


def other_crc(path: Path) -> bytes:
    data = bytearray(npz(path, head=np.zeros(300)))
    data[1000] ^= 1
    return bytes(data)


WRONG: list[tuple[str, Callable[[Path], bytes], str]] = [
    ("npy", npy, "a file of another kind"),
    ("npy before a zip", lambda path: npy(path) + npz(path, head=np.zeros(3)), "a file of another kind"),
    ("text", lambda path: b"weights", "a file of another kind"),
    ("nothing", lambda path: b"", "a file of another kind"),
    ("truncated", lambda path: npz(path, head=np.zeros(300))[:-50], "or the beginning of one"),
    ("damaged", other_crc, "an array that cannot be read"),
    ("objects", lambda path: npz(path, head=np.array([{}], dtype=object)), "an array that cannot be read"),
    ("words", lambda path: npz(path, head=np.array(["a"])), "head, which is no array of numbers"),
    ("a text within", with_a_text, "about.txt, which is no array of numbers"),
    ("no arrays", lambda path: npz(path), "no arrays"),
    ("complex", lambda path: npz(path, head=np.zeros(3, complex)), "head, which is no array of numbers"),
]


@pytest.mark.parametrize(("make", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_a_file_that_holds_no_weights_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], bytes], said: str
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(make(path))
    with pytest.raises(InvalidInputError, match=rf"arrays .*x\.npz: found .*{said}") as caught:
        evaluate(path)
    assert "swarm federate average" in caught.value.remedy


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="found a folder"):
        evaluate(tmp_path)


def test_the_files_of_average_and_sums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    npz(path, head=np.ones(3, np.float32), round_accuracies=np.zeros(2))
    assert list(_weights(path)) == ["head"]
    npz(path, root=np.ones((3, 2)), ridges=np.zeros(2), owners=np.zeros(3, np.uint8))
    assert list(_weights(path)) == ["root"]


def told(error: SwarmError) -> SwarmError:
    with pytest.raises(type(error)) as caught, _net_is_built_elsewhere():
        raise error
    return caught.value


def test_of_a_net_that_the_coordinator_lacks_its_folder_is_named_and_not_ours() -> None:
    with pytest.raises(NotFoundError) as missing:
        load_function("no_such_module:net")
    assert "run the command" in missing.value.remedy
    remedy = told(missing.value).remedy
    assert "start swarm coordinator in the folder that holds it" in remedy
    assert "run the command" not in remedy


def test_of_a_net_that_a_node_lacks_its_training_names_the_folder() -> None:
    with pytest.raises(NotFoundError) as missing:
        load_function("no_such_module:net")
    found = f"0 answers (rose: {missing.value})"
    said = told(NotReadyError("federated round", found=found, remedy="swarm status"))
    assert "swarm train DATA --import-path DIR" in said.remedy
    assert "no module no_such_module" in said.found and "run the command" not in said.found


def test_other_errors_of_a_run_stay_as_they_are() -> None:
    assert told(NotReadyError("federated round", found="no answer", remedy="wait")).remedy == "wait"
