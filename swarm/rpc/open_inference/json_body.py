"""The Open Inference Protocol's HTTP bodies: JSON, and JSON with the tensors' bytes behind it. Pure."""

import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from swarm.domain.errors import InvalidInputError
from swarm.domain.open_inference import (
    InferRequest,
    InferResult,
    OfferedTensor,
    OutputTensor,
    Parameters,
    RequestedOutput,
)
from swarm.rpc.open_inference.tensors import MOST_NUMBERS, MOST_SIZES, raw_of

Json = Mapping[str, Any]
MOST_JSON_BYTES = 8 << 20
MOST_JSON_NUMBERS = 1 << 17
"""More takes so long to read or write that all others would wait; bytes have no such limit."""
_MOST_MARKS = 2 * MOST_NUMBERS + (1 << 16)
"""Brackets, braces and commas, counted before they are read: a `{}` takes a hundred bytes then."""
_MOST_ENTRIES = 1024
_LARGEST_SIZE = (1 << 63) - 1
"""Of a dimension: what the protocol's messages hold."""
_SUBJECT = "request body"


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyRequest:
    """A request, and which of its outputs are wanted as bytes: those named, and the others `by_default`."""

    request: InferRequest
    binary: Mapping[str, bool]
    by_default: bool

    def is_binary(self, output: str) -> bool:
        """Say whether this output is wanted as bytes."""
        return self.binary.get(output, self.by_default)


def request_from_body(model: str, version: str, body: bytes, header_size: int | None) -> BodyRequest:
    """Return the request in a body, its tensors unread.

    `header_size`: how many bytes of it are JSON, by the header Inference-Header-Content-Length; None: all.
    Raises InvalidInputError for what is no such request, and where sizes and bytes do not match.
    """
    if header_size is not None and not 0 < header_size <= len(body):
        raise InvalidInputError(
            "header Inference-Header-Content-Length",
            found=f"{header_size} of a body of {len(body)} bytes",
            expected="how many of its first bytes are JSON",
        )
    end = len(body) if header_size is None else header_size
    said = _json_of(body[:end])
    parameters = _parameters(said, _SUBJECT)
    outputs = [_Output.of(each) for each in _list_of(said, "outputs")]
    return BodyRequest(
        request=InferRequest(
            model=model,
            version=version,
            id=_text(said, "id", _SUBJECT),
            parameters=parameters,
            inputs=_tensors(_list_of(said, "inputs"), memoryview(body)[end:]),
            outputs=tuple(each.requested for each in outputs),
        ),
        binary={each.requested.name: each.is_binary for each in outputs if each.is_binary is not None},
        by_default=parameters.get("binary_data_output", False) is True,
    )


def only_ready(body: bytes) -> bool:
    """Return whether a body of repository/index asks for what is ready only; an empty one does not."""
    wanted = _json_of(body).get("ready", False) if body else False
    if not isinstance(wanted, bool):
        raise InvalidInputError("ready", found=f"a JSON {_kind(wanted)}", expected="true or false")
    return wanted


def result_to_body(result: InferResult, asked: BodyRequest) -> tuple[bytes, int | None]:
    """Return a result's body, and how many bytes of it are JSON; None: all, no output is wanted as bytes."""
    raw: list[bytes] = []
    outputs = []
    for output in result.outputs:
        said: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if asked.is_binary(output.name):
            raw.append(raw_of(output))
            said["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            said["data"] = _data_of(output)
        outputs.append(said)
    body: dict[str, Any] = {"model_name": result.model, "model_version": result.version}
    if result.id:
        body["id"] = result.id
    body |= {"parameters": dict(result.parameters), "outputs": outputs}
    header = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([header, *raw]), len(header) if raw else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    requested: RequestedOutput
    is_binary: bool | None

    @classmethod
    def of(cls, said: Json) -> "_Output":
        name = _text(said, "name", "output")
        parameters = _parameters(said, f"output {name[:40]}")
        wish = parameters.get("binary_data")
        if wish is not None and not isinstance(wish, bool):
            raise InvalidInputError(
                f"output {name[:40]}", found=f"binary_data {wish!r:.40}", expected="true or false"
            )
        return cls(requested=RequestedOutput.of(name, parameters), is_binary=wish)


def _tensors(inputs: Sequence[Json], raw: memoryview) -> tuple[OfferedTensor, ...]:
    found, start = [], 0
    for said in inputs:
        name = _text(said, "name", "input")
        subject = f"input {name[:40]}"
        parameters = _parameters(said, subject)
        content: Any = said.get("data")
        if "binary_data_size" in parameters:
            size = parameters["binary_data_size"]
            if isinstance(size, bool) or not isinstance(size, int) or size < 0 or "data" in said:
                data = " beside data" if "data" in said else ""
                raise InvalidInputError(
                    subject, found=f"binary_data_size {size!r:.40}{data}", expected="a number of bytes, alone"
                )
            if start + size > len(raw):
                raise InvalidInputError(
                    subject,
                    found=f"binary_data_size {size}, and {len(raw) - start} bytes left behind the JSON",
                    expected="as many bytes as were announced",
                    remedy="name the JSON's length: Inference-Header-Content-Length",
                )
            content, start = raw[start : start + size], start + size
        elif content is not None and not isinstance(content, list):
            raise InvalidInputError(
                subject, found=f"data of type {_kind(content)}", expected="a list of numbers"
            )
        found.append(
            OfferedTensor(
                name=name,
                datatype=_text(said, "datatype", subject),
                shape=_shape(said, subject),
                content=content,
                parameters=parameters,
            )
        )
    if start < len(raw):
        raise InvalidInputError(
            _SUBJECT,
            found=f"{len(raw) - start} bytes behind the JSON that no input announces",
            expected="binary_data_size of each input to cover them",
        )
    return tuple(found)


def _data_of(output: OutputTensor) -> list[Any]:
    if isinstance(output.values, tuple):
        return [text.decode() for text in output.values]
    if output.values.size > MOST_JSON_NUMBERS:
        raise InvalidInputError(
            f"output {output.name}",
            found=f"{output.values.size} numbers as JSON",
            expected=f"at most {MOST_JSON_NUMBERS}",
            remedy="ask for bytes: binary_data true",
        )
    flat: list[Any] = output.values.ravel().tolist()
    return flat


def _json_of(data: bytes) -> Json:
    if len(data) > MOST_JSON_BYTES:
        raise InvalidInputError(
            _SUBJECT,
            found=f"{len(data)} bytes of JSON",
            expected=f"at most {MOST_JSON_BYTES >> 20} MiB",
            remedy="send the numbers as bytes behind it: binary_data_size",
        )
    marks = sum(map(data.count, (b"[", b"{", b",")))
    if marks > _MOST_MARKS:
        raise InvalidInputError(
            _SUBJECT,
            found=f"{marks} brackets, braces and commas",
            expected=f"at most {_MOST_MARKS}, and {MOST_NUMBERS} numbers",
            remedy="send the numbers as bytes behind it: binary_data_size",
        )
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = f"no JSON: {error}" if isinstance(error, json.JSONDecodeError) else "no JSON"
        raise InvalidInputError(_SUBJECT, found=found[:120], expected="a JSON object") from None
    if not isinstance(said, dict):
        raise InvalidInputError(_SUBJECT, found=f"a JSON {_kind(said)}", expected="a JSON object")
    return said


def _list_of(said: Json, name: str) -> list[Json]:
    found = said.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidInputError(f"{name} of the request", found="no list of objects", expected="one")
    _check_few(found, f"{name} of the request")
    return found


def _text(said: Json, name: str, subject: str) -> str:
    found = said.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidInputError(
            subject, found=f"{name} of type {_kind(found)}", expected=f"a text as its {name}"
        )
    _check_text(found, f"{name} of {subject}")
    return found


def _shape(said: Json, subject: str) -> tuple[int, ...]:
    found = said.get("shape")
    sizes: list[Any] = found if isinstance(found, list) else [None]
    if any(isinstance(size, bool) or not isinstance(size, int) for size in sizes):
        raise InvalidInputError(subject, found="no shape", expected="its sizes as a list of whole numbers")
    if len(sizes) > MOST_SIZES or any(abs(size) > _LARGEST_SIZE for size in sizes):
        raise InvalidInputError(
            subject,
            found=f"a shape of {len(sizes)} sizes" if len(sizes) > MOST_SIZES else "a size that is no int64",
            expected=f"at most {MOST_SIZES} sizes of 64 bits",
        )
    return tuple(sizes)


def _parameters(said: Json, subject: str) -> Parameters:
    found = said.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInputError(subject, found=f"parameters of type {_kind(found)}", expected="an object")
    _check_few(found, f"parameters of {subject}")
    for name, value in found.items():
        _check_text(name, f"the name of a parameter of {subject}")
        if isinstance(value, str):
            _check_text(value, f"parameter {name[:40]}")
        if not isinstance(value, bool | int | float | str):
            raise InvalidInputError(
                f"parameter {name[:40]}", found=f"a JSON {_kind(value)}", expected="a text, number or truth"
            )
    return found


def _check_few(entries: Sized, subject: str) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise InvalidInputError(subject, found=f"{len(entries)} of them", expected=f"at most {_MOST_ENTRIES}")


def _check_text(text: str, subject: str) -> None:
    """Raise for half a pair of surrogates, which JSON can escape and nothing can answer or write down."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidInputError(subject, found=repr(text[:40]), expected="a text of Unicode characters")


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth", type(None): "null"}
    return names.get(type(value), "number")
