"""Generates the protobuf modules under proto/reelnet/v1; `--check` fails when the committed ones differ.

Run it with the environment of locks/codegen.txt (`scripts/bootstrap codegen`): `make proto`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def generate(target: Path) -> dict[str, bytes]:
    """Runs protoc into `target`; returns the generated files by their path below it."""
    from grpc_tools import protoc  # only the generator's own environment has it

    sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("reelnet/v1/*.proto"))
    includes = [f"-I{ROOT}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    outputs += [f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet,only_async:{target}"]
    if protoc.main(["protoc", *includes, *outputs, *sources]) != 0:
        raise SystemExit("protoc failed")
    services = [p for p in target.rglob("*_pb2_grpc.py*") if "Stub" not in p.read_text()]
    for empty in services:  # a file without services needs no service module
        empty.unlink()
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*_pb2*")}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    committed = {str(p.relative_to(ROOT)): p.read_bytes() for p in ROOT.glob("reelnet/v1/*_pb2*")}
    if "--check" in sys.argv[1:]:
        drift = sorted(n for n in fresh.keys() | committed.keys() if fresh.get(n) != committed.get(n))
        for name in drift:
            print(f"proto/{name}: differs from what its source generates; run `make proto`")
        return 1 if drift else 0
    for name in committed.keys() - fresh.keys():
        (ROOT / name).unlink()
    for name, data in fresh.items():
        (ROOT / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
