#!/usr/bin/env bash
# The whole pipeline on one machine without a network, under a time budget.
#
#   OUT=out benchmarks/gpu_run.sh --minutes=60 --archive=cifar10.tar.xz --preset=fast [flags of pipeline.py]
#
#   --minutes=N     stop after so many minutes; what is finished, or checkpointed at a whole epoch, stays
#   --archive=FILE  a packed image folder (train/<class>/..., test/<class>/...); without it, the preset's data set
#   --model_dir=DIR the run's directory (default: runs/gpu); the same directory again goes on where it stopped
#
# Uses TensorFlow if it is installed, else JAX (KERAS_BACKEND overrides), with $PYTHON (default: python3).
# Leaves in $OUT (default: out): log.txt, results.json, genotype.json, masks.npz, run.tar.gz (report, configurations,
# curves) and weights-float16-*.npz, each file below 16 MB. Exit status 0 when the pipeline finished, 124 when the
# time ran out, else the pipeline's own.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-out}
minutes=60
archive=
model_dir=runs/gpu
flags=()
for argument in "$@"; do
  case $argument in
    --minutes=*) minutes=${argument#*=} ;;
    --archive=*) archive=${argument#*=} ;;
    --model_dir=*) model_dir=${argument#*=} ;;
    *) flags+=("$argument") ;;
  esac
done
case $minutes in
  '' | *[!0-9.]*) echo "error: --minutes must be a number. Received: $minutes" >&2; exit 2 ;;
esac
if [ -n "$archive" ] && [ ! -f "$archive" ]; then
  echo "error: --archive=$archive does not exist" >&2
  exit 2
fi
mkdir -p "$out"

if [ -z "${KERAS_BACKEND:-}" ]; then
  if "$python" -c 'import tensorflow' 2>/dev/null; then KERAS_BACKEND=tensorflow; else KERAS_BACKEND=jax; fi
fi
export KERAS_BACKEND PYTHONUNBUFFERED=1
started=$(date +%s)

if [ -n "$archive" ]; then
  data=$(dirname "$model_dir")/$(basename "$archive" | sed 's/\.tar.*//')
  if [ ! -e "$data/.unpacked" ]; then
    mkdir -p "$data"
    tar -C "$data" -xf "$archive" && touch "$data/.unpacked" || exit 2
  fi
  flags+=(--dataset=folder "--data_dir=$data" "--cache_dir=$(dirname "$model_dir")/cache")
fi

# Half a minute, at most a tenth of the budget, is kept for packing.
budget=$("$python" -c "import sys; s = 60 * float(sys.argv[1]); print(max(1, int(s - min(30, s / 10))))" "$minutes")
left=$((budget - $(date +%s) + started))
echo "backend $KERAS_BACKEND, $left s for the pipeline" | tee -a "$out/log.txt"
timeout --signal=TERM --kill-after=20 "$((left > 1 ? left : 1))" \
  "$python" pipeline.py "--model_dir=$model_dir" "${flags[@]}" 2>&1 | tee -a "$out/log.txt"
status=${PIPESTATUS[0]}
[ "$status" -eq 137 ] && status=124

if [ -f "$model_dir/run.json" ]; then
  "$python" report.py "--model_dir=$model_dir" >>"$out/log.txt" 2>&1
  "$python" benchmarks/pack_run.py "--model_dir=$model_dir" "--out=$out" 2>&1 | tee -a "$out/log.txt"
fi
exit "$status"
