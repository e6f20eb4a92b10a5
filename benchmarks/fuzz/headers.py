"""Mutated tensor headers: of modules in a manifest, of safetensors files, and of arrays on the wire."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.attacking import Found
from benchmarks.fuzz.delivering import Outcome, Sent
from benchmarks.fuzz.mutations import Mutator, json_text
from swarm.domain.errors import InvalidInputError, NotFoundError, SwarmError, VerificationError
from swarm.domain.ids import Digest
from swarm.domain.tensors import ModuleEntry
from swarm.exchange.weights_file import blobs_of, read_weights, write_weights
from swarm.modules.packing import check_module, pack_module, unpack
from swarm.rpc import methods as m
from swarm.rpc.convert.tensors import set_tensor, tensor_from_pb
from swarm.rpc.methods import PREDICT
from swarm.rpc.pb import types_pb2
from swarm.trust.codec import from_json, to_json

ARRAYS = {
    "weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
    "bias": np.zeros(4, np.float32),
    "steps": np.arange(3),
    "mask": np.array([True, False]),
}


class Headers:
    """A module, a file and an array that are right, and mutations of what says how their bytes lie."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._mutator = Mutator(random.Random(seed))
        self._module, self._blobs = pack_module("head", ARRAYS)
        self._entry = to_json(self._module)
        self._file = folder / "mutated.safetensors"
        write_weights(self._file, [self._module], self._read, {"swarm": "plants"})
        whole = self._file.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        self._header, self._data = whole[8 : 8 + size], whole[8 + size :]
        message = types_pb2.Tensor()
        set_tensor(message, ARRAYS["weight"], "weight")
        self._array = message.SerializeToString()

    def read(self, count: int) -> Found:
        """Read so many mutated headers; return how that ended."""
        found = Found()
        kinds = (self._of_a_module, self._of_a_file, self._of_an_array)
        for _ in range(count):
            data, work = self._mutator.chance.choice(kinds)()
            found.note(PREDICT, Sent(parts=(data,)), _outcome(work))
        return found

    def _of_a_module(self) -> tuple[bytes, Callable[[], object]]:
        text = self._changed(self._entry)

        def work() -> None:
            module = from_json(ModuleEntry, text)
            check_module(module, self._read)
            unpack(module.tensors, self._read)

        return text, work

    def _of_a_file(self) -> tuple[bytes, Callable[[], object]]:
        header = self._changed(self._header)
        chance = self._mutator.chance
        sizes = (len(header), len(header), len(header), len(header) + 1, 0, 1 << 40, (1 << 64) - 1)
        data = (
            chance.choice(sizes).to_bytes(8, "little")
            + header
            + self._data[: chance.choice((None, None, 9, 0))]
        )
        if chance.random() < 0.1:
            data = self._mutator.bytes_changed(data, [])

        def work() -> None:
            self._file.write_bytes(data)
            blobs_of([self._module], read_weights(self._file))

        return data, work

    def _of_an_array(self) -> tuple[bytes, Callable[[], object]]:
        if self._mutator.chance.random() < 0.3:
            data = self._mutator.bytes_changed(self._array, [])
        else:
            message = types_pb2.Tensor.FromString(self._array)
            self._mutator.message_changed(message)
            data = message.SerializeToString()

        def work() -> None:
            request = m.PREDICT.read_request(b"\x0a" + _length(data) + data)
            tensor_from_pb(request.inputs, "inputs")

        return data, work

    def _changed(self, text: bytes) -> bytes:
        if self._mutator.chance.random() < 0.2:
            return self._mutator.bytes_changed(text, [])
        tree: Any = json.loads(text)
        return json_text(self._mutator.json_changed(tree))

    def _read(self, blob: Digest) -> memoryview:
        if blob not in self._blobs:
            raise NotFoundError(f"blob {blob[:12]}", found="nothing")
        return memoryview(self._blobs[blob])


def _outcome(work: Callable[[], object]) -> Outcome:
    try:
        work()
    except (InvalidInputError, VerificationError, NotFoundError) as error:
        return Outcome("DATA_LOSS" if isinstance(error, VerificationError) else "INVALID_ARGUMENT")
    except SwarmError as error:
        return Outcome("INTERNAL", str(error))
    except Exception as error:
        return Outcome("CRASH", f"{type(error).__name__}: {error}")
    return Outcome("OK")


def _length(data: bytes) -> bytes:
    size, found = len(data), bytearray()
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])
