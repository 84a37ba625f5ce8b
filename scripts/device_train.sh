#!/usr/bin/env bash
# Train the text reader on a machine with one GPU, in nine minutes, the start included.
#
#   OUT=out DATA=data scripts/device_train.sh
#   RESUME=out OUT=more DATA=data scripts/device_train.sh    # where the last one ended, on any machine
#
# Out come metrics.jsonl (loss, tokens and seconds of every step), step, adapter_config.json, and the deltas in bfloat16
# in parts of at most 16 MB; `cat reader.part-* > adapter_model.safetensors` joins them. Without the optimizer's
# moments, which are ten times as large. BUILT names questions of build_questions.py; MODEL and START other weights.
# DEVICE=cpu STEPS=2 tries it out.
set -euo pipefail

: "${OUT:?names the folder for what comes out}" "${DATA:?names the folder of the training data}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
mkdir -p "$OUT"
export PYTHONPATH="$here/core${PYTHONPATH:+:$PYTHONPATH}"

more=()
if [ -n "${RESUME:-}" ]; then
  mkdir "$run/start"
  cp "$RESUME/adapter_config.json" "$run/start/"
  cat "$RESUME"/reader.part-* > "$run/start/adapter_model.safetensors"
  more+=(--start "$run/start" --from-step "$(cat "$RESUME/step")")
elif [ -n "${START:-}" ]; then
  more+=(--start "$START")
fi
if [ -n "${BUILT:-}" ]; then
  read -ra built <<< "$BUILT"
  more+=(--built "${built[@]}")
fi
[ -z "${MODEL:-}" ] || more+=(--model "$MODEL")

"${PYTHON:-python3}" "$here/scripts/train_text_reader.py" --data "$DATA" --out "$run/run" \
  --device "${DEVICE:-cuda}" --dtype "${DTYPE:-bfloat16}" --steps "${STEPS:-3000}" --seconds "${SECONDS_OF_TRAINING:-420}" \
  --step-tokens "${STEP_TOKENS:-24000}" --block-tokens "${BLOCK_TOKENS:-4000}" \
  --validation-rows "${VALIDATION_ROWS:-96}" "${more[@]}"

cp "$run/run/metrics.jsonl" "$run/run/step" "$run/run/reader/adapter_config.json" "$OUT/"
rm -f "$OUT"/reader.part-*
split --bytes=16000000 "$run/run/reader/adapter_model.safetensors" "$OUT/reader.part-"
