"""The program by which people without Swarm verify an export; it stands in every model card."""

from typing import Final

VERIFYING_PROGRAM: Final = '''
import base64
import hashlib
import json

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from safetensors import deserialize

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
          "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


def signed(envelope, verify):
    """Return what an envelope says, once its signature is verified (DSSE)."""
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    verify(signature, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    return json.loads(payload)["predicate"]


def check(name, modules):
    """Compare a file's tensors with the digests that the manifest signs."""
    with open(name, "rb") as file:
        tensors = dict(deserialize(file.read()))
    for module in modules:
        prefix = "" if module["name"] == "_own" else module["name"] + "."
        found = [(t["name"], tensors.pop(prefix + t["name"])) for t in module["tensors"]]
        found.sort(key=lambda pair: pair[0])
        layout = [[name, DTYPES[t["dtype"]], list(t["shape"])] for name, t in found]
        header = json.dumps(layout, separators=(",", ":")).encode()
        digest = blake3(len(header).to_bytes(8, "little") + header)
        for _, tensor in found:
            digest.update(bytes(tensor["data"]))
        assert digest.hexdigest() == module["digest"], module["name"]
    assert not tensors, sorted(tensors)


with open("manifest.json", "rb") as file:
    told = json.load(file)
ca = x509.load_pem_x509_certificate(told["ca"].encode()).public_key()
record = signed(told["owner_record"], lambda s, data: ca.verify(s, data, ec.ECDSA(hashes.SHA256())))
owner = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(record["signing_key"]))
manifest = signed(told["manifest"], owner.verify)
assert (record["id"], record["swarm"]) == (manifest["owner"], manifest["swarm"])
check("model.safetensors", manifest["modules"])
if manifest.get("correction"):
    check("correction.safetensors", manifest["correction"]["modules"])
der = ca.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
print(manifest["expert"], "version", manifest["version"], "made by", record["id"], "of", record["swarm"])
print("pin", hashlib.sha256(der).hexdigest())
'''
