"""Generate `swarm/rpc/pb` from `protos/`: `python -m swarm.rpc.generate`; `--check` only compares.

Needs grpcio-tools (the `dev` extra) and a source checkout. Imports are rewritten to `swarm.rpc.pb`, so that
no top-level package is claimed; the descriptors keep their names (`swarm/v1/types.proto`).
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos"
PACKAGE = HERE / "pb"
INIT = '"""Generated from protos/ by `make proto`; edit the protos."""\n'


def generate(protos: Path) -> dict[str, str]:
    """Return the text of every generated file by its name."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development dependency

    sources = sorted(protos.glob("swarm/v1/*.proto"))
    if not sources:
        raise SystemExit(f"{protos}: found no swarm/v1/*.proto; run from a source checkout")
    public = sorted(protos.glob("inference/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"-I{protos}", f"--python_out={folder}", f"--pyi_out={folder}"]
        if protoc.main(["protoc", *arguments, *map(str, sources + public)]) != 0:
            raise SystemExit("protoc failed; its message is above")
        made = {path.name: rewrite(path.read_text()) for path in Path(folder).rglob("*_pb2.py*")}
    for name in (f"{source.stem}_pb2.py" for source in public):
        made[name] = in_own_pool(made[name])
    return {"__init__.py": INIT, **made}


def rewrite(text: str) -> str:
    """Return text with its imports of swarm.v1 led to swarm.rpc.pb, and without bare generics."""
    text = text.replace("_Mapping]", "_Mapping[str, object]]")
    return re.sub(r"^from swarm\.v1 import ", "from swarm.rpc.pb import ", text, flags=re.MULTILINE)


def in_own_pool(text: str) -> str:
    """Return text with its descriptors in a pool of their own."""
    return text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")


def stale(made: dict[str, str], package: Path) -> list[str]:
    """Return the names of files in package that differ from, lack in or exceed what was made."""
    there = {path.name: path.read_text() for path in package.glob("*.py*")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main(arguments: list[str] | None = None) -> int:
    """Write the package, or with `--check` report (exit 1) what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args(arguments).check
    made = generate(PROTOS)
    differing = stale(made, PACKAGE)
    if check:
        if differing:
            print(f"swarm/rpc/pb is out of date ({', '.join(differing)}); run `make proto`", file=sys.stderr)
        return 1 if differing else 0
    PACKAGE.mkdir(exist_ok=True)
    for name in differing:
        if name in made:
            (PACKAGE / name).write_text(made[name])
        else:
            (PACKAGE / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
