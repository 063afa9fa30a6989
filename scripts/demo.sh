#!/usr/bin/env bash
# The main job from end to end on drawn cells, all in ./demo; `make demo` runs it. Every command is printed first.
# The backbone is tiny and starts from random weights, so nothing is downloaded. A second run starts afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What the caller's environment says about studies of their own does not count here.
unset "${!HPO_@}"
export HPO_HOME=demo/.hpo HPO_STUDY=demo
# So small a network gains nothing from a second thread, and loses much where the cores are busy.
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
