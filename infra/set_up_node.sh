#!/usr/bin/env bash
# Makes a host ready for kineray. `ray up` runs it on every node (setup_commands); it may run again.
#
#   set_up_node.sh NAME=VALUE...
#
# Installs the exact versions of requirements.lock and the package, both from the copy of the
# repository that this file lies in, and exports the settings NAME=VALUE to every shell (so to
# `ray submit` too) and to everything that Ray starts. Three of them have a use here:
#   KINERAY_ENVIRONMENT   a virtual environment that the host has already (on a shared disk, in its
#                         image): it is used instead of a new one
#   MLFLOW_TRACKING_URI   an MLflow server that there is already; default: the one on the head
#   NETWORK_INTERFACE     what workers speak through; default: that of the default route
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)

KINERAY_ENVIRONMENT= MLFLOW_TRACKING_URI= NETWORK_INTERFACE=
for setting in "$@"; do
  case $setting in
    [A-Z]*=*) declare "$setting" ;;
    *) echo "set_up_node.sh: '$setting': expected NAME=VALUE" >&2; exit 2 ;;
  esac
done

if [ -z "$KINERAY_ENVIRONMENT" ]; then
  python=$(command -v python3.11 || true)
  if [ -z "$python" ]; then
    python3 -m pip install --quiet --user uv
    python3 -m uv python install --quiet 3.11
    python=$(python3 -m uv python find 3.11)
  fi
  make --directory="$repository" setup PYTHON="$python"
  KINERAY_ENVIRONMENT=$repository/.venv
fi

# Ray gives RAY_HEAD_IP to the set-up of workers; on the head it is the host's own address.
address=$(hostname -I | cut -d' ' -f1)
head=${RAY_HEAD_IP:-$address}
# Left to themselves, gloo and NCCL may pick the loopback or a bridge that no other host reaches.
interface=${NETWORK_INTERFACE:-$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)}

exports=$HOME/.kineray_env
{
  printf 'export PATH=%q:$PATH\n' "$KINERAY_ENVIRONMENT/bin"
  printf 'export PYTHONPATH=%q\n' "$repository/platform"
  printf 'export GLOO_SOCKET_IFNAME=%q NCCL_SOCKET_IFNAME=%q\n' "$interface" "$interface"
  printf 'export MLFLOW_TRACKING_URI=%q\n' "${MLFLOW_TRACKING_URI:-http://$head:5000}"
  for setting in "$@"; do
    printf 'export %s=%q\n' "${setting%%=*}" "${setting#*=}"
  done
} >"$exports.new"
mv "$exports.new" "$exports"

# First in the file: some .bashrc return early.
touch ~/.bashrc
if ! grep -qxF '. ~/.kineray_env' ~/.bashrc; then
  { echo '. ~/.kineray_env'; cat ~/.bashrc; } >~/.bashrc.new
  mv ~/.bashrc.new ~/.bashrc
fi
