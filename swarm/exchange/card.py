"""The model card of an export: Markdown with YAML front matter, as the Hugging Face hub reads it.

Names and metrics are their owners' words: whatever could act as Markdown, HTML or YAML in them is escaped.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from swarm.domain.ids import Digest
from swarm.domain.manifests import Cost, Manifest
from swarm.domain.specification import Specification
from swarm.exchange.plain_net import plain_net
from swarm.exchange.verifying_program import VERIFYING_PROGRAM

UNKNOWN_LICENSE: Final = "unknown"
_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]<>#|&~$])")
_MOST_CLASSES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card tells beside the manifest and the specification.

    `pin` is the CA's, `license` empty where the owner states none, `class_counts` the shard's training
    samples where the owner itself exports, `names` the ancestors' `expert@version` by manifest, `standing`
    how the version stands in the registry's lineage, `is_signed` whether an OpenSSF signature lies beside.
    """

    digest: Digest
    pin: str
    license: str = ""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[Digest, str] = field(default_factory=dict)
    standing: str = ""
    is_signed: bool = False


def model_card(manifest: Manifest, specification: Specification, facts: CardFacts) -> str:
    """Return the card's text."""
    sections = (
        _front_matter(manifest, facts),
        _about(manifest, facts),
        _classes(manifest, facts),
        _input(specification),
        _training(manifest, facts),
        _metrics(manifest),
        _lineage(manifest, facts),
        _cost(manifest),
        _correction(manifest),
        _loading(manifest, specification),
        _verifying(facts),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def escaped(text: str) -> str:
    """Return one line of plain text as Markdown shows it, nothing in it acting."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    return _ACTIVE.sub(lambda match: f"&#{ord(match[1])};", plain)


def _front_matter(manifest: Manifest, facts: CardFacts) -> str:
    task = "image-classification" if len(manifest.net.input_shape) in (2, 3) else "tabular-classification"
    accuracy = manifest.metrics.get("validation_accuracy")
    result = {
        "task": {"type": task},
        "dataset": {"name": f"validation samples of {manifest.owner}, which are private", "type": "private"},
        "metrics": [{"type": "accuracy", "name": "validation accuracy", "value": accuracy}],
    }
    fields: dict[str, object] = {
        "license": facts.license or UNKNOWN_LICENSE,
        "library_name": "pytorch",
        "pipeline_tag": task,
        "tags": ["swarm", "federated-learning", "modular"],
    }
    if accuracy is not None:
        fields["model-index"] = [{"name": f"{manifest.expert}@{manifest.version}", "results": [result]}]
    # What JSON says is YAML, too.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _about(manifest: Manifest, facts: CardFacts) -> str:
    made = datetime.fromtimestamp(manifest.created_at, UTC).strftime("%Y-%m-%d")
    code = f", source code blake3 `{manifest.net.code_digest}`" if manifest.net.code_digest else ""
    terms = {
        "public": "anybody may use it in the swarm",
        "borrow": "other members of its swarm may start from it; ask its owner before you pass it on",
        "serve-only": "its owner exported it; nobody else in its swarm holds the modules",
    }[manifest.share]
    lines = [
        f"# {escaped(manifest.expert)}@{manifest.version}",
        "",
        f"An expert of the swarm `{manifest.swarm}`: a net that node `{manifest.owner}` trained on its own"
        f" private data, made on {made}.",
        "",
        f"- Net: `{_code(manifest.net.factory)}`, {_numbers(manifest):,} numbers in"
        f" {len(manifest.modules)} modules{code}",
        f"- Share: {manifest.share} ({terms})",
        f"- Licence: {escaped(facts.license) if facts.license else 'none stated'}",
        f"- Manifest: `{facts.digest}`",
    ]
    if facts.standing and facts.standing != "live":
        lines.append(f"- Standing when it was exported: {facts.standing}")
    return "\n".join(lines)


def _classes(manifest: Manifest, facts: CardFacts) -> str:
    counts = facts.class_counts
    header = ["| output | class | training samples |", "|---|---|---|"]
    shown = manifest.class_names[:_MOST_CLASSES]
    rows = [
        f"| {place} | {escaped(name)} | {counts.get(name, 0) if counts else 'known to its owner'} |"
        for place, name in enumerate(shown)
    ]
    left = len(manifest.class_names) - len(shown)
    more = [f"\n{left} more: `class_names` in the file's metadata."] if left else []
    return "\n".join(["## Classes", "", *header, *rows, *more])


def _input(specification: Specification) -> str:
    shape = ", ".join(map(str, specification.input_shape))
    return (
        "## Input\n\n"
        f"`{specification.input_dtype}` [batch, {shape}], given to the net as float32"
        f" `{_scaled('raw', specification)}`. The output is one logit for each class."
    )


def _training(manifest: Manifest, facts: CardFacts) -> str:
    cost = manifest.cost
    total = sum(facts.class_counts.values())
    counted = f"{total:,} training samples" if total else "Training samples that its owner alone has counted"
    lines = [
        "## Training data",
        "",
        f"{counted}; {cost.samples_seen:,} samples were seen, each as often as it was drawn. The data are"
        f" private to `{manifest.owner}` and are not here.",
    ]
    return "\n".join(lines)


def _metrics(manifest: Manifest) -> str:
    what = (
        "Validation samples were held out before anything else and are the owner's own: the figures say how"
        " the expert does on its owner's kind of data, by its owner's word, which the manifest signs."
    )
    return "\n".join(["## Metrics and validation", "", what, "", *_table(manifest.metrics)])


def _table(metrics: Mapping[str, float]) -> Sequence[str]:
    if not metrics:
        return ["None are stated."]
    rows = [f"| {escaped(name)} | {value:.6g} |" for name, value in sorted(metrics.items())]
    return ["| metric | value |", "|---|---|", *rows]


def _lineage(manifest: Manifest, facts: CardFacts) -> str:
    rows = [
        f"- {parent.kind} `{parent.manifest}`"
        + (f" ({escaped(facts.names[parent.manifest])})" if parent.manifest in facts.names else "")
        for parent in manifest.parents
    ]
    seen = f"Gate version seen: {manifest.gate_version_seen}. Trunk: `{manifest.trunk}`."
    return "\n".join(["## Lineage", "", *(rows or ["- started from random weights"]), "", seen])


def _cost(manifest: Manifest) -> str:
    return "\n".join(["## Cost", "", *_costs(manifest.cost)])


def _costs(cost: Cost) -> Sequence[str]:
    return (
        f"- training: {cost.train_flops:.3g} FLOPs in {cost.duration_s:.1f} s",
        f"- a query: {cost.inference_flops:,} FLOPs",
    )


def _correction(manifest: Manifest) -> str:
    if manifest.correction is None:
        return ""
    made = manifest.correction
    about = (
        "`correction.safetensors` holds a second set of weights for the same net: what the expert adds to the"
        f" class scores of its swarm's root. It was trained beside gate `{made.base}` with class"
        f" temperature {made.class_temperature:.6g} and means nothing without class scores of that kind: to"
        " correct scores `s` over the classes above, add the net's logits less their mean to"
        " `s / temperature`."
    )
    return "\n".join(["## Correction", "", about, "", *_table(made.metrics), "", *_costs(made.cost)])


def _loading(manifest: Manifest, specification: Specification) -> str:
    net = plain_net(manifest)
    shape, scaled = ", ".join(map(str, specification.input_shape)), _scaled("raw.float()", specification)
    if not net:
        about = (
            '`load_file("model.safetensors")` of the package `safetensors` gives the net\'s state dict. The'
            f" net is built by `{_code(manifest.net.factory)}`, which is not in plain torch here: take its"
            " owner's code, or the package `swarm` for a net of its own."
        )
        return f"## Use\n\n{about}"
    imports = ["import json", "", "import torch"]
    imports += ["import torch.nn.functional as F"] if "F." in net else []
    imports += ["from safetensors import safe_open", "from torch import nn", "", ""]
    program = [
        *imports,
        net,
        "",
        "",
        'with safe_open("model.safetensors", framework="pt") as file:',
        "    weights = {name: file.get_tensor(name) for name in file.keys()}",
        '    class_names = json.loads(file.metadata()["class_names"])',
        "net = Net()",
        "net.load_state_dict(weights)",
        "net.eval()",
        "",
        "",
        "def probabilities(raw):",
        f'    """raw: [batch, {shape}]; the columns are class_names."""',
        "    with torch.inference_mode():",
        f"        return torch.softmax(net({scaled}), 1)",
    ]
    return "\n".join(["## Use", "", "```python", *program, "```"])


def _verifying(facts: CardFacts) -> str:
    lines = [
        "## Verify",
        "",
        "`swarm import DIR --check` checks everything. Without Swarm, in this folder, with the packages"
        " `blake3`, `cryptography` and `safetensors`:",
        "",
        "```python",
        VERIFYING_PROGRAM.strip(),
        "```",
        "",
        f"The pin has to be `{facts.pin}`, as members of the swarm can tell you: whoever changes this folder"
        " can change this card, too.",
    ]
    if facts.is_signed:
        lines += [
            "",
            "An OpenSSF model signature over all files, by the exporting node's certificate:",
            "",
            "```bash",
            "model_signing verify certificate . --signature model.sig --certificate_chain ca.pem",
            "```",
        ]
    return "\n".join(lines)


def _numbers(manifest: Manifest) -> int:
    total = 0
    for module in manifest.modules:
        for tensor in module.tensors:
            size = 1
            for side in tensor.shape:
                size *= side
            total += size
    return total


def _scaled(values: str, specification: Specification) -> str:
    return f"{values} * {specification.scale!r} + {specification.offset!r}"


def _code(text: str) -> str:
    """Return text for between backticks."""
    return "".join(each if each.isprintable() and each != "`" else " " for each in text)[:200]
