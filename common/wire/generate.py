"""Write the stubs of `fedwon.proto` anew: `python -m fedwon.common.wire.generate [FOLDER]` (needs the `dev` extra)."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
PACKAGE = "fedwon/common/wire"


def generate(folder: Path) -> list[Path]:
    """Generate messages, services and their type stubs into a folder.

    The compiler sees the file below the path that it is imported by, so that the services import their messages
    absolutely.

    Returns:
        The files written.

    Raises:
        RuntimeError: the compiler refused.
    """
    from grpc_tools import protoc

    with TemporaryDirectory() as scratch:
        root, out = Path(scratch) / "in", Path(scratch) / "out"
        source = root / PACKAGE / "fedwon.proto"
        source.parent.mkdir(parents=True)
        out.mkdir()
        source.write_bytes((HERE / "fedwon.proto").read_bytes())
        arguments = [
            "protoc",
            f"-I{root}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            str(source),
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc refused fedwon.proto")
        written = []
        for made in sorted((out / PACKAGE).iterdir()):
            target = folder / made.name
            target.write_bytes(made.read_bytes())
            written.append(target)
        return written


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
