#!/usr/bin/env bash
# run.sh JOB...: the wheel and the sdist in dist/ as a user meets them, each job in a fresh environment: `make test-wheel`.
#
#   TORCH:TRANSFORMERS   the wheel with these versions and without a compiler: check_install.py converts models, compares them with
#                        Hugging Face, records and saves them. What the operators give is the same, bit by bit, in all these jobs.
#   harness              the wheel with its extra `harness` measures from a checkout that is not built
#   sdist                compiles
#
#   PYTHON=<python>      that makes the environments, of a built checkout
#   TMPDIR=<folder>      where there is room: 6 GB for torch with CUDA, one environment at a time
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-.venv/bin/python}
(($# > 0)) || { echo "usage: run.sh JOB..." >&2; exit 2; }
shopt -s nullglob
wheels=(dist/bert_op-*-py3-none-manylinux_2_28_x86_64.whl)
((${#wheels[@]} == 1)) || { echo "error: dist/ has ${#wheels[@]} wheels for any Python on manylinux_2_28: make wheel" >&2; exit 2; }
wheel=$PWD/${wheels[0]}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

fresh() {
    rm -rf "$folder/env"
    "$python" -m venv "$folder/env"
}
install() { "$folder/env/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
frozen() { "$folder/env/bin/python" -m pip --disable-pip-version-check freeze; }
# Nothing of this machine but the environment: no compiler, no settings.
alone() { env -i PATH="$folder/env/bin" HOME="$folder" "$folder/env/bin/python" "$@"; }

pair() {
    fresh
    install "torch==${1%%:*}" "transformers==${1#*:}"
    frozen >"$folder/before"
    install --no-deps "$wheel"
    "$folder/env/bin/python" -m pip check
    (cd "$folder" && alone "$OLDPWD/tests/wheel/digests.py" "$folder/$1.json" && alone "$OLDPWD/tests/wheel/check_install.py")
    # With its dependencies it brings nothing more than torch and transformers do.
    install "$wheel"
    frozen | grep -v '^bert-op @' | diff "$folder/before" - >&2
}

harness() {
    fresh
    install -c constraints.txt "$wheel[harness]"
    git clone --quiet --no-local . "$folder/a checkout"
    (cd "$folder/a checkout" && alone -m harness model=minilm precision=bf16_qint8 run_time=smoke tracking=none)
}

sdist() {
    "$python" -m pip --disable-pip-version-check wheel --quiet --no-build-isolation --no-deps --wheel-dir "$folder/sdist" dist/*.tar.gz
}

echo "== $(basename "$wheel")"
"$python" tests/wheel/contents.py "$wheel" "$folder/unpacked"
for job; do
    echo "== $job"
    case $job in
    *:*) pair "$job" ;;
    harness | sdist) "$job" ;;
    *) echo "error: no such job: $job" >&2 && exit 2 ;;
    esac
done
digests=("$folder"/*:*.json)
((${#digests[@]} == 0)) || "$python" tests/wheel/same_bits.py "${digests[@]}"
