"""Pack onnxruntime-gpu for the GPUs of one architecture into one small archive.

    python benchmarks/gpu/pack_onnxruntime.py OUT.tar.xz --arch 90

The CUDA provider holds machine code for many architectures. This program keeps the code of one, zeroes the rest, and
compresses. File length and addresses stay as they are, so the dynamic linker sees the same library.
Needs only the standard library, ``pip`` and ``xz``.
"""

import argparse
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Code", "codes", "keep_architecture", "pack"]

VERSION = "1.31.1"
PYTHON = "3.12"
# manylinux tags that pip may choose from.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64")
_CUDA = "libonnxruntime_providers_cuda.so"
# No library of the package is linked with these. The Python module holds the runtime itself.
_UNUSED_LIBRARIES = re.compile(r"libonnxruntime\.so.*|libonnxruntime_providers_tensorrt\.so")
# Tools for developers, which no session imports.
_UNUSED_FOLDERS = ("transformers", "quantization", "tools", "datasets", "backend")

_SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
_MAGIC = 0xBA55ED50
_MACHINE_CODE = 2  # 1 is PTX
_ALIGNMENT = 8


@dataclass(frozen=True)
class Code:
    """One piece of device code in a container (a fat binary) of the library.

    Attributes:
        kind: 2 for machine code, 1 for PTX.
        architecture: such as 90 for sm_90 and sm_90a.
        start: where it begins in the file, its header included.
        size: bytes, its header included.
    """

    kind: int
    architecture: int
    start: int
    size: int


def _sections(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    width, count, names = struct.unpack_from("<HHH", data, 0x3A)
    (strings,) = struct.unpack_from("<Q", data, table + names * width + 24)
    for index in range(count):
        header = table + index * width
        (name,) = struct.unpack_from("<I", data, header)
        offset, size = struct.unpack_from("<QQ", data, header + 24)
        yield bytes(data[strings + name : data.index(b"\0", strings + name)]), offset, size


def _containers(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """For each container its start, and where its body starts and ends."""
    for name, offset, size in _sections(data):
        if name not in _SECTIONS:
            continue
        at = offset
        while at + 16 <= offset + size:
            magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
            if magic != _MAGIC:
                at += _ALIGNMENT
                continue
            yield at, at + header, at + header + length
            at = -(-(at + header + length) // _ALIGNMENT) * _ALIGNMENT


def _pieces(data: bytes | bytearray, start: int, end: int) -> Iterator[Code]:
    while start < end:
        kind, _, header, payload = struct.unpack_from("<HHIQ", data, start)
        (architecture,) = struct.unpack_from("<I", data, start + 28)
        yield Code(kind, architecture, start, header + payload)
        start += header + payload


def codes(data: bytes | bytearray) -> Iterator[Code]:
    """All device code of a library."""
    for _, body, end in _containers(data):
        yield from _pieces(data, body, end)


def keep_architecture(data: bytearray, architecture: int) -> int:
    """Zero the code of other architectures in place, in every container that has some for ``architecture``.

    A container without code for ``architecture`` stays whole: the driver may need its PTX.

    Returns:
        Bytes zeroed.
    """
    freed = 0
    for start, body, end in list(_containers(data)):
        pieces = list(_pieces(data, body, end))
        kept = [piece for piece in pieces if (piece.kind, piece.architecture) == (_MACHINE_CODE, architecture)]
        if not kept or len(kept) == len(pieces):
            continue
        code = b"".join(bytes(data[piece.start : piece.start + piece.size]) for piece in kept)
        freed += end - body - len(code)
        data[body:end] = code + bytes(end - body - len(code))
        struct.pack_into("<Q", data, start + 8, len(code))
    return freed


def pack(out: Path, architecture: int, version: str = VERSION, python: str = PYTHON) -> None:
    """Download the wheel, cut it and write ``out``, a .tar.xz that holds the folder ``onnxruntime``."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _unpack(_download(folder, version, python), folder)
        libraries = folder / "onnxruntime" / "capi"
        for path in list(libraries.iterdir()):
            if _UNUSED_LIBRARIES.fullmatch(path.name):
                path.unlink()
        data = bytearray((libraries / _CUDA).read_bytes())
        found = Counter(code.architecture for code in codes(data) if code.kind == _MACHINE_CODE)
        if architecture not in found:
            sys.exit(f"onnxruntime-gpu {version} has no code for sm_{architecture}; it has {sorted(found)}")
        freed = keep_architecture(data, architecture)
        (libraries / _CUDA).write_bytes(data)
        print(f"zeroed {freed / 2**20:.0f} of {len(data) / 2**20:.0f} MiB: code for GPUs other than sm_{architecture}")
        # The x86 filter makes machine code of the CPU smaller by some MiB.
        compress = "xz --threads=1 --x86 --lzma2=preset=7"
        names = sorted(path.name for path in folder.glob("onnxruntime*") if path.is_dir())
        tar = ["tar", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-I", compress, "-cf", str(out.resolve())]
        subprocess.run([*tar, *names], cwd=folder, check=True)


def _download(folder: Path, version: str, python: str) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    platforms = [f"--platform={name}" for name in _PLATFORMS]
    which = [f"--python-version={python}", "--implementation=cp", *platforms, f"onnxruntime-gpu=={version}"]
    subprocess.run([*pip, *which], check=True)
    return next(folder.glob("onnxruntime_gpu-*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    """Unpack what sessions need, and the metadata by which Python finds the version."""
    unused = tuple(f"onnxruntime/{name}/" for name in _UNUSED_FOLDERS)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if not name.startswith(unused)])
    wheel.unlink()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", type=int, default=90, help="compute capability of the GPU without its dot")
    parser.add_argument("--version", default=VERSION)
    parser.add_argument("--python", default=PYTHON)
    options = parser.parse_args()
    pack(options.out, options.arch, options.version, options.python)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
