#!/usr/bin/env bash
# Builds the Dockerfile's images and runs one, on a machine that has neither a Docker daemon nor an image registry.
# The base image is a bare Debian root file system (debootstrap) with Debian's Python 3.11; buildah runs the Dockerfile.
# It takes root, debootstrap, buildah, some 20 GB of disk and a network that has the Python and Debian packages.
#
#   tests/deploy/bare_root.sh build [cpu|cuda] [further options of buildah build]
#   tests/deploy/bare_root.sh run   [cpu|cuda] [options of cos-serve]
#   tests/deploy/bare_root.sh pod   [cpu|cuda] [options of cos-serve]     as the Helm chart has it: nothing can be written to
#                                                                         but the volumes, and nobody gains any rights
#   tests/deploy/bare_root.sh shell [cpu|cuda] COMMAND [ARGUMENT ...]
#   tests/deploy/bare_root.sh remove
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${BARE_ROOT:-$root/build/bare-root}
base=localhost/bare-debian-python
mkdir -p "$work"

buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver overlay "$@"; }

# A container sees none of this machine's settings: where it trusts certificates of its own, these go with it.
trusted() {
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
}

make_base() {
  [ -z "$(buildah images --quiet "$base" 2>/dev/null)" ] || return 0
  if [ ! -x "$work/debian/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$work/debian"
  fi
  # As the official image has it: "python", and a pip that may install into it.
  ln -sf python3 "$work/debian/usr/bin/python"
  rm -f "$work"/debian/usr/lib/python3*/EXTERNALLY-MANAGED
  trusted "$work/debian"
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/debian" /
  buildah config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$container"
  buildah commit --quiet --rm "$container" "$base"
}

# A container of an image, and its end with this script.
with_container() {
  container=$(buildah from --pull-never "localhost/cos-serve:$1")
  trap 'buildah rm "$container" >/dev/null' EXIT
}

task=${1:?build, run, pod, shell or remove}
target=${2:-cpu}
shift $(($# < 2 ? $# : 2))
case $task in
  build)
    make_base
    # Without its cache of layers: a cached stage that a later one mounts is mounted empty (buildah 1.28).
    buildah build --isolation chroot --format docker --layers=false --pull-never --build-arg "PYTHON_IMAGE=$base" \
      --target "$target" --tag "cos-serve:$target" "$@" --file "$root/Dockerfile" "$root"
    buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' "cos-serve:$target"
    ;;
  run)
    # What the image says, by the user it says: buildah's "run" takes the command instead of the entry point.
    with_container "$target"
    buildah run --isolation chroot "$container" -- cos-serve --host 127.0.0.1 "$@"
    ;;
  pod)
    with_container "$target"
    files=$(buildah mount "$container")
    mapfile -t variables < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container")
    # shellcheck disable=SC2016
    unshare --mount bash -euc '
      files=$1 && shift
      mount --bind "$files" "$files"
      mount --options remount,bind,ro "$files"
      mount --types proc proc "$files/proc"
      mount --rbind /sys "$files/sys"
      mount --rbind /dev "$files/dev"
      for volume in tmp home/cos models traces; do
        mount --types tmpfs --options uid=10001,gid=10001,mode=755 tmpfs "$files/$volume"
      done
      cd "$files/home/cos"
      exec chroot "$files" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
        --bounding-set=-all --inh-caps=-all -- env --ignore-environment "$@"
    ' pod "$files" HOME=/home/cos "${variables[@]}" cos-serve --host 127.0.0.1 --trace-dir /traces "$@"
    ;;
  shell)
    with_container "$target"
    buildah run --isolation chroot "$container" -- "$@"
    ;;
  remove)
    buildah rm --all >/dev/null || true
    buildah rmi --all --force >/dev/null || true
    rm -rf "$work"
    ;;
  *)
    echo "$0: $task is none of build, run, pod, shell, remove" >&2
    exit 2
    ;;
esac
