#!/bin/bash
# The ten measurements of one GPU, then, in what time is left, the full planner's cascade against stock nnU-Net.
#
#   results/gpu/run.sh [OUT] [MINUTES] [THEN_MINUTES] [more options, for instance --device cpu --smallest]
#
# Where nnunet_ext is installed for python3 (or $PYTHON), that is measured. Else the wheels in .whl/ are installed into a
# temporary folder, without network. To pack them on a machine with network, in the project's folder:
#
#   ../shared/tools/pack_wheels.sh . pydicom nibabel surface-distance
#
# OUT gets gpu.md, gpu.json, comparison.md and log.txt. All else is made in OUT/work and deleted in the end.
set -eu
cd "$(dirname "$0")/../.."
project=$PWD
out=$(mkdir -p "${1:-results/gpu/out}" && cd "${1:-results/gpu/out}" && pwd)
minutes=${2:-9}
then_minutes=${3:-5}
shift $(($# < 3 ? $# : 3))
python=${PYTHON:-python3}
# Not from the project's folder, whose sources would hide the installed package.
cd "$out"
if ! "$python" -c "import nnunet_ext.trainers" 2> "$out/import.txt"; then
  installed=$(mktemp -d)
  trap 'rm -rf "$installed"' EXIT
  "$python" -m pip install -q --no-index --no-deps --target "$installed" "$project"/.whl/*.whl
  export PYTHONPATH="$installed${PYTHONPATH:+:$PYTHONPATH}" PATH="$installed/bin:$PATH"
fi
rm -f "$out/import.txt"
status=0
"$python" -m nnunet_ext.end_to_end.gpu_measurements "$out" --minutes "$minutes" --then-minutes "$then_minutes" \
  --tests "$project/tests" "$@" || status=$?
rm -rf "$out/work"
exit $status
