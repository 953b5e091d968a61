#!/usr/bin/env bash
# The container image, built and run on this machine without an engine: `make test-image`.
# debootstrap makes the base that docker/Dockerfile names Debian's image for, buildah builds on it and runs the result. Everything
# lives in one folder, some 8 GB at most, and is gone at the end. For root only: it installs the two where they are missing.
#
#   DEBIAN_MIRROR=<address>    where debootstrap takes Debian from, if not from where it always does
#   SUITE=trixie               another Debian
#   TMPDIR=<folder>            where there is room
set -euo pipefail
cd "$(dirname "$0")/../.."

if ((EUID != 0)); then
    echo "error: make test-image has to be run by root, which alone may make a Debian and change into it" >&2
    exit 2
fi
python=${PYTHON:-python3}
packages=()
command -v buildah >/dev/null || packages+=(buildah)
command -v debootstrap >/dev/null || packages+=(debootstrap)
if ((${#packages[@]})); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

folder=$(mktemp -d)
# Images and containers of this run alone. vfs copies whole layers but runs on any file system.
buildah() { command buildah --root "$folder/storage" --runroot "$folder/run" --storage-driver "$driver" "$@"; }
driver=overlay
teardown() {
    status=$?
    set +e
    buildah rm --all >/dev/null 2>&1
    buildah umount --all >/dev/null 2>&1
    # Never through a mount: one that is left is told of.
    rm -rf --one-file-system "$folder"
    exit "$status"
}
trap teardown EXIT
trap 'exit 130' INT TERM
buildah info >/dev/null 2>&1 || driver=vfs

echo "== base: Debian ${SUITE:-bookworm} by debootstrap"
debootstrap --variant=minbase "${SUITE:-bookworm}" "$folder/base" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$folder/debootstrap.log" ||
    { tail -n 20 "$folder/debootstrap.log" >&2; exit 1; }
rm -rf "$folder"/base/var/cache/apt/archives/*.deb "$folder"/base/var/lib/apt/lists/*
base=$(buildah from scratch)
buildah copy --quiet "$base" "$folder/base" / >/dev/null
buildah commit --quiet "$base" localhost/base >/dev/null
buildah rm "$base" >/dev/null
rm -rf --one-file-system "$folder/base"

echo "== build: docker/Dockerfile"
mkdir "$folder/pip"
"$python" tests/image/pip_settings.py "$folder/pip"
settings=(--secret "id=pip,src=$folder/pip/pip.conf" --build-arg BASE=localhost/base --build-arg TORCH_INDEX="${TORCH_INDEX:-}")
build() {
    buildah bud --quiet --isolation chroot --layers --format docker "${settings[@]}" \
        --ignorefile docker/Dockerfile.dockerignore --file docker/Dockerfile "$@" .
}
# Only the first stage asks pip. A mount leaves an empty folder behind, so the second one is built without.
volumes=()
while read -r volume; do volumes+=(--volume "$volume:ro"); done <"$folder/pip/volumes"
build --target build "${volumes[@]}"
build --tag localhost/bert-op

container=$(buildah from localhost/bert-op)
in_image() { buildah run --isolation chroot "$container" -- "$@" </dev/null; }

echo "== the image: no compiler, nothing of this machine's pip settings"
in_image sh -c 'for tool in cc c++ gcc g++ cpp ld as make cmake; do ! command -v $tool || exit 1; done'
for path in /etc/pip.conf /run/pip; do in_image test ! -e "$path"; done
in_image du -sh --one-file-system --exclude=/proc --exclude=/sys --exclude=/dev /

echo "== a measurement in it"
in_image docker/entrypoint numactl --physcpubind=0 -- model=minilm precision=bf16_qint8 run_time=smoke
echo "== and its end with a status: a wrong precision is told with 2"
status=0
in_image docker/entrypoint precision=fp99 >"$folder/wrong.log" 2>&1 || status=$?
((status == 2)) || { cat "$folder/wrong.log" >&2; exit 1; }
