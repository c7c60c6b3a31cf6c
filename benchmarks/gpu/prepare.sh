#!/usr/bin/env bash
# Make the part of the kit that a GPU machine without network lacks: bash benchmarks/gpu/prepare.sh [FOLDER]
# ARCH is the GPU's compute capability without its dot (default: 90, for H100 and H200). Needs pip, xz and the network.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu.prepare "${1:-$root/benchmarks/gpu/.kit}" --arch "${ARCH:-90}"
