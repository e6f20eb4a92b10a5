"""A Python iterator as a folder of mega-batches: `python -m node.stream.feeder FOLDER REFERENCE [PATHS...]`.

`package.module:stream` is called without arguments and gives (inputs, labels), or class names as a third,
again and again. Each item becomes a file.npz, as long as fewer than AHEAD of them wait to be taken (the
agent writes into `.taken.json` how many it took since the process began). What was given before, by its
content, is passed over, so an iterator that begins anew after a restart goes on where it was. Standard output
carries `{"skipped": reason, "item": number}` for an item that is no mega-batch, `{"trouble": reason, "told":
..}` while one cannot be written down (empty: it could), and `{"problem": ...}` before exit code 2, as
`node.learner` does.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from node.children import die_with_parent
from node.durable import write_json
from node.learner import PROBLEM_EXIT, say
from node.stream.trouble import in_words, pause_s, reason_of
from swarm.data.dataset import Dataset, make_dataset
from swarm.data.npz import save_npz
from swarm.data.user_code import load_function
from swarm.digests import blake3
from swarm.domain.errors import InvalidInputError, SwarmError
from swarm.domain.problems import Problem

AHEAD = 2
TAKEN_FILE, GIVEN_FILE = ".taken.json", ".given.json"
_LOOK_AGAIN_S = 0.1


def feed(folder: Path, reference: str, import_paths: Sequence[str]) -> None:
    """Write the iterator's items into folder until it ends. Raises what is wrong with the iterator itself."""
    given = _given(folder)
    written = 0
    for number, item in enumerate(_items(reference, import_paths), start=1):
        try:
            dataset = _dataset(item, f"{reference}, item {number}")
        except SwarmError as error:
            say({"skipped": str(error), "item": number})
            continue
        digest = _digest(dataset)
        if digest in given:
            continue
        while written - _taken(folder) >= AHEAD:
            time.sleep(_LOOK_AGAIN_S)
        _written_down(folder / f"{len(given) + 1:06d}-{digest}.npz", dataset, [*given, digest])
        written += 1
        given.append(digest)


def _written_down(path: Path, dataset: Dataset, given: Sequence[str]) -> None:
    """Write an item and the list of those given, as often as it takes: an iterator gives each only once."""
    for failures in itertools.count(1):
        try:
            save_npz(path, dataset)
            write_json(path.parent / GIVEN_FILE, list(given))
        except OSError as error:
            pause = pause_s(failures)
            told = f"an item of the iterator could not be written, and is again in {in_words(pause)}"
            say({"trouble": reason_of(error), "told": f"{told}: {error}"})
            time.sleep(pause)
        else:
            if failures > 1:
                say({"trouble": "", "told": ""})
            return


def _items(reference: str, import_paths: Sequence[str]) -> Iterable[Any]:
    stream = load_function(reference, import_paths)
    try:
        iterator = iter(stream())
    except Exception as error:
        raise _broken(reference, error) from error
    for number in itertools.count(1):
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise _broken(reference, error, f"item {number}, or the end") from error
        yield item


def _broken(
    reference: str,
    error: Exception,
    expected: str = "a function that returns an iterable of (inputs, labels)",
) -> InvalidInputError:
    return InvalidInputError(
        f"stream {reference}",
        found=f"{type(error).__name__}: {error}",
        expected=expected,
        remedy="iterate over it in Python and mend where it fails",
    )


def _dataset(item: object, name: str) -> Dataset:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise InvalidInputError(
            name,
            found=type(item).__name__,
            expected="(inputs, labels) or (inputs, labels, class_names)",
            remedy="yield one of these",
        )
    inputs, labels = item[0], item[1]
    return make_dataset(inputs, labels, item[2] if len(item) == 3 else None, name=name)


def _digest(dataset: Dataset) -> str:
    hasher = blake3(f"{dataset.inputs.dtype} {list(dataset.inputs.shape)} {dataset.class_names}".encode())
    hasher.update(np.ascontiguousarray(dataset.inputs).tobytes())
    hasher.update(dataset.labels.tobytes())
    return hasher.hexdigest(8)


def _given(folder: Path) -> list[str]:
    """Return the digests of what was given, also of a file that a crash kept out of the list."""
    path = folder / GIVEN_FILE
    listed = [str(each) for each in json.loads(path.read_bytes())] if path.exists() else []
    files = [file.stem.partition("-")[2] for file in sorted(folder.glob("*.npz"))]
    return [*listed, *(each for each in files if each not in listed)]


def _taken(folder: Path) -> int:
    try:
        return int(json.loads((folder / TAKEN_FILE).read_bytes()))
    except (OSError, ValueError):
        return 0


def main(folder: Path, reference: str, import_paths: Sequence[str]) -> int:
    """Feed until the iterator ends; return the exit code."""
    try:
        feed(folder, reference, import_paths)
    except SwarmError as error:
        say({"problem": asdict(Problem.of(error))})
        return PROBLEM_EXIT
    return 0


if __name__ == "__main__":
    # What is written are private samples.
    os.umask(0o077)
    die_with_parent()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
