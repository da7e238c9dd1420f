"""Compile `open_inference.proto` into the descriptor set that the core ships.

With no argument it rewrites the shipped file; with a path it writes there, so that a test can
compare the two. The same .proto gives the same bytes: no comments and no positions go in.
"""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "core" / "src" / "jackfield" / "_wire"


def compile_proto(target: Path) -> None:
    """Write the FileDescriptorSet of `open_inference.proto`.

    The file goes by a name of its own, `jackfield/open_inference.proto`: clients of the protocol
    register theirs under other names, and a pool that meets both must be able to tell them apart.

    Args:
        target: The file to write; an existing one is replaced.

    Raises:
        subprocess.CalledProcessError: The .proto is faulty, or grpcio-tools is not installed.
    """
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    folder = f"--proto_path=jackfield={PACKAGE}"
    out = f"--descriptor_set_out={target}"
    subprocess.run([*protoc, folder, out, "jackfield/open_inference.proto"], check=True)


if __name__ == "__main__":
    compile_proto(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE / "open_inference.binpb")
