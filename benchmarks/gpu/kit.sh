#!/usr/bin/env bash
# Measure ese-deploy on this machine's GPU: bash benchmarks/gpu/kit.sh OUT [--device cpu] [--tiny] [--only STEP]
# Needs no network. PYTHON chooses the interpreter (default: python3).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
