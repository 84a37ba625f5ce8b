#!/usr/bin/env bash
# What a machine with one GPU is to say in nine minutes: whether the accelerator's tests pass, what ingest, a warm question
# and 1, 8 and 64 questions at once cost, beside MemAgent's loop, and how much memory each takes.
#
#   DATA=../shared/data OUT=runs/device scripts/device_check.sh
#
# DEVICE=cpu, DTYPE=float32, QUESTIONS=2, DOCUMENTS=20 and MOST=300 (seconds of a part) rehearse it on a processor.
# device.txt, and a folder with rows.jsonl and summary.json for each size. A part that fails ends no other.
set -u
: "${DATA:?folder of the evaluation data}" "${OUT:?folder of the results}"
DEVICE=${DEVICE:-cuda} DTYPE=${DTYPE:-bfloat16} SECONDS_LEFT=${SECONDS_LEFT:-520}
DOCUMENTS=${DOCUMENTS:-"50 200 800"} QUESTIONS=${QUESTIONS:-64} AT_ONCE=${AT_ONCE:-"1 8 64"}
MOST=${MOST:-60} PYTHON=${PYTHON:-python}
mkdir -p "$OUT"
end=$((SECONDS + SECONDS_LEFT)) failed=0

# A part may take what is left, and at most $1 seconds; its output goes to file $2.
part() {
  local most=$1 log=$2 left=$((end - SECONDS))
  shift 2
  if [ "$left" -lt 10 ]; then
    echo "no time left: $*" | tee -a "$OUT/left_out.txt"
    return
  fi
  timeout --kill-after=10 $((left < most ? left : most)) "$@" >"$OUT/$log" 2>&1
  local code=$?
  echo "$code $log" >>"$OUT/codes.txt"
  [ $code -eq 0 ] || failed=1
}

"$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")' >"$OUT/device.txt"
part 120 tests.txt "$PYTHON" -m pytest -p no:cacheprovider tests/device
least() { echo $(($1 < $2 ? $1 : $2)); }
for documents in $DOCUMENTS; do
  # each question brings ten paragraphs of its own
  share=$(least "$QUESTIONS" $((documents / 10)))
  for at_once in $AT_ONCE; do
    [ "$at_once" -le "$share" ] || continue
    part "$MOST" "ours-$documents-$at_once.txt" "$PYTHON" -m memrecall_kv eval --task ruler-hqa --data "$DATA" --device "$DEVICE" \
      --dtype "$DTYPE" --system memrecall --documents "$documents:$share" --share "$share" \
      --concurrency "$at_once" --out "$OUT/ours-$documents-$at_once" --json
  done
  part "$MOST" "memagent-$documents.txt" "$PYTHON" -m memrecall_kv eval --task ruler-hqa --data "$DATA" --device "$DEVICE" \
    --dtype "$DTYPE" --system memagent --documents "$documents:$(least "$QUESTIONS" 8)" --concurrency 8 \
    --out "$OUT/memagent-$documents" --json
done
exit $failed
