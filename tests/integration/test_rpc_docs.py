"""What docs/wire.md says is what happens: its example runs, and its tables are the code's."""

import asyncio
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from swarm.domain.errors import error_classes
from swarm.rpc import methods as m
from swarm.rpc import status
from swarm.rpc.servicers import inference_service
from swarm.trust.identity import save_identity
from tests.support.rpc import Inference, found_now, node, serving

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


async def test_the_documented_call_works_as_it_is_printed(tmp_path: Path) -> None:
    swarm = found_now(tmp_path / "swarm")
    example = re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert example is not None
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    async with serving(swarm.coordinator, [inference_service(Inference())]) as (_, address):
        ada = replace(node(swarm, "ada"), coordinator=address)
        folder = tmp_path / "identity"
        fields = {name: getattr(ada, name) for name in ada.__dataclass_fields__ if name != "folder"}
        save_identity(folder, **fields)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            example[1],
            str(folder),
            str(tmp_path / "x.npy"),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines() == ["0 beech 1.000 gate 3", "1 beech 1.000 gate 3"]


def test_the_documented_roles_are_the_tables() -> None:
    rows = re.findall(r"^\| ?(\w*) \| ([\w, ]+) \|(.*)\|$", DOCUMENT, re.MULTILINE)
    columns = ("node", "operator", "client", "coordinator", "registry")
    told: dict[str, set[str]] = {}
    service = ""
    for name, methods, marks in rows:
        cells = [cell.strip() for cell in marks.split("|")]
        if name == "service" or len(cells) != len(columns) or not set(cells) <= {"x", ""}:
            continue
        service = name or service
        for method in methods.split(", "):
            told[f"{service}.{method}"] = {c for c, cell in zip(columns, cells, strict=True) if cell}
    served = {f"{each.service}.{each.name}": set(each.roles) for each in m.METHODS if each.service != "Agent"}
    assert told == served


def test_the_documented_errors_are_the_tables() -> None:
    told: dict[str, tuple[str, int, int]] = {}
    for codes, name, http, code in re.findall(
        r"^\| (`.*`) \| (\w+) \| (\d+) \| (\d) \|$", DOCUMENT, re.MULTILINE
    ):
        told |= {each.strip("` "): (name, int(http), int(code)) for each in codes.split(",")}
    assert told == {code: tuple(status.status_of(cls)) for code, cls in error_classes().items()}
