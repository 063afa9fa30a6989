#!/usr/bin/env bash
# Run the main use from end to end on drawn cells, all in ./demo; `make demo` calls it. Every command is printed first.
# The backbone is tiny and starts from random weights, so nothing is downloaded. A second run starts from the beginning.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Ignore the caller's settings for other studies.
unset "${!HPO_@}"
export HPO_HOME=demo/.hpo HPO_STUDY=demo
# A second thread does not speed up so small a network, and slows it down if the cores are busy.
export HPO_THREADS=1

bold=''
plain=''
if [ -t 1 ]; then
  bold=$'\e[1m'
  plain=$'\e[0m'
fi

show() {
  printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
  "$@"
}

forget_the_last_run() {
  if [ -d "$HPO_HOME" ]; then # a run that was killed may have left its server
    python -c 'import sys; from pathlib import Path; from storage import stop_embedded; stop_embedded(Path(sys.argv[1]))' \
      "$HPO_HOME"
  fi
  rm -rf demo
}

forget_the_last_run
show hpo make-cells demo/cells --images 1600 --size 64
show hpo run demo/cells --study demo --space quick --backbone test_resnet --set pretrained=false \
  --set image_size=64 --set epochs=8 --set unfreeze_depth=1 --trials 6 --workers 2 --timeout 2m
show hpo export-best --study demo --out demo/best
show hpo retrain demo/best --data demo/cells --out demo/final
show hpo evaluate demo/final --data demo/cells --split test
show hpo predict demo/final demo/cells --out demo/predictions.csv
printf '\nDone in %d s. The model is demo/final; the study stays in %s:\n' "$SECONDS" "$HPO_HOME"
printf '  .venv/bin/hpo dashboard --home %s\n' "$HPO_HOME"
