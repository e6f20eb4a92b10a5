"""Statements that say anything at all under a member's own signature: the strongest forger there is."""

import json
from typing import Any

from securesystemslib.dsse import Envelope

from benchmarks.fuzz.mutations import Mutator, json_text
from swarm.digests import digest_of
from swarm.trust.signing import Signer
from swarm.trust.statements import PAYLOAD_TYPE

MOST_BYTES = 256 * 1024


def mutated_statement(envelope: bytes, mutator: Mutator, signer: Signer) -> bytes:
    """Return a statement like the envelope's with something changed, signed anew by signer."""
    payload = bytes(Envelope.from_dict(json.loads(envelope)).payload)
    if mutator.chance.random() < 0.15:
        return signed(mutator.bytes_changed(payload, [payload]), signer)
    tree = json.loads(payload)
    if mutator.chance.random() < 0.1:
        tree = mutator.json_changed(tree)
    else:
        tree["predicate"] = mutator.json_changed(tree["predicate"])
        tree["subject"] = _subject(tree)
    return signed(json_text(tree)[:MOST_BYTES], signer)


def signed(payload: bytes, signer: Signer) -> bytes:
    """Return the canonical envelope of any payload."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer.dsse_signer)
    return json_text(envelope.to_dict())


def _subject(tree: dict[str, Any]) -> Any:
    """Return what the statement is about as its reader expects it, as far as the predicate still says it."""
    kind, predicate = tree.get("predicateType"), tree["predicate"]
    try:
        if kind == "swarm:manifest/v1":
            return [
                {"name": each["name"], "digest": {"blake3": each["digest"]}} for each in predicate["modules"]
            ]
        if kind == "swarm:contribution/v1":
            return [
                {"name": each["leaf"], "digest": {"blake3": each["prototypes"]["blob"]}}
                for each in predicate["leaves"]
            ]
    except (TypeError, KeyError):
        return tree["subject"]
    name = str(kind).removeprefix("swarm:").removesuffix("/v1")
    return [{"name": name, "digest": {"blake3": digest_of(json_text(predicate))}}]
