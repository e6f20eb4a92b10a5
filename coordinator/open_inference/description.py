"""The HTTP pages as an OpenAPI 3.1 document, at `/v2/openapi.json`: for generated clients, and for tests."""

from typing import Any, Final

from swarm import __version__

Json = dict[str, Any]

_ERROR: Final[Json] = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_PARAMETERS: Final[Json] = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_DATATYPES: Final = [
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16"),
]
_SHAPE: Final[Json] = {"type": "array", "items": {"type": "integer"}}
_NAMED_TENSOR: Final[Json] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": _SHAPE},
}
_SCHEMAS: Final[dict[str, Json]] = {
    "Error": _ERROR,
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": _PARAMETERS,
            "inputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "datatype", "shape"],
                    "properties": {
                        "name": {"type": "string"},
                        "datatype": {"enum": _DATATYPES},
                        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                        "parameters": _PARAMETERS,
                        "data": {"type": "array"},
                    },
                },
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": _PARAMETERS,
            "outputs": {"type": "array", "items": _NAMED_TENSOR},
        },
    },
    "ModelMetadata": {
        "type": "object",
        "required": ["name", "platform", "inputs", "outputs"],
        "properties": {
            "name": {"type": "string"},
            "versions": {"type": "array", "items": {"type": "string"}},
            "platform": {"type": "string"},
            "inputs": {"type": "array", "items": _NAMED_TENSOR},
            "outputs": {"type": "array", "items": _NAMED_TENSOR},
        },
    },
    "ServerMetadata": {
        "type": "object",
        "required": ["name", "version", "extensions"],
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "extensions": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Index": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {
                **{each: {"type": "string"} for each in ("name", "version", "state", "reason")},
            },
        },
    },
}
_OPEN_ERRORS: Final = ("503",)
_KNOWN_ERRORS: Final = ("400", "401", "404", "429", "503")
_ASKING_ERRORS: Final = (*_KNOWN_ERRORS, "403", "409", "412", "422", "504")


def openapi() -> Json:
    """Return the document."""
    model: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    version: Json = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    anything: Json = {"type": "object"}
    pages: dict[str, Json] = {
        "/v2/health/live": {"get": _page("live", "Whether the process answers.", anything, ())},
        "/v2/health/ready": {
            "get": _page("ready", "Whether there is a gate to answer by.", anything, _OPEN_ERRORS)
        },
        "/v2": {"get": _page("server", "What this server is.", _reference("ServerMetadata"))},
        "/v2/models/stats": {"get": _page("allStatistics", "How often all models were asked.", anything)},
        "/v2/repository/index": {
            "post": {
                **_page("index", "Every model and whether it is ready.", _reference("Index")),
                "requestBody": _body({"type": "object", "properties": {"ready": {"type": "boolean"}}}),
            }
        },
    }
    for suffix, given in (("", [model]), ("/versions/{version}", [model, version])):
        names = "OfVersion" if suffix else ""
        prefix = f"/v2/models/{{name}}{suffix}"
        for end, name, told, reply in (
            ("", "model", "A model's inputs and outputs.", _reference("ModelMetadata")),
            ("/ready", "modelReady", "Whether somebody can answer for it.", anything),
            ("/config", "config", "A model's configuration.", anything),
            ("/stats", "statistics", "How often a model was asked.", anything),
        ):
            pages[prefix + end] = {"get": {**_page(name + names, told, reply), "parameters": given}}
        pages[f"{prefix}/infer"] = {
            "post": {
                **_page("infer" + names, "An answer.", _reference("InferResponse"), _ASKING_ERRORS),
                "parameters": given,
                "requestBody": {**_body(_reference("InferRequest")), "required": True},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Open Inference Protocol v2 of a swarm", "version": __version__},
        "paths": pages,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _page(operation: str, told: str, reply: Json, errors: tuple[str, ...] = _KNOWN_ERRORS) -> Json:
    refused = {"content": {"application/json": {"schema": _reference("Error")}}}
    responses: Json = {"200": {"description": told, "content": {"application/json": {"schema": reply}}}}
    responses |= {status: {"description": "refused; why is in `error`", **refused} for status in errors}
    return {"operationId": operation, "summary": told, "responses": responses}


def _body(schema: Json) -> Json:
    return {"content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
