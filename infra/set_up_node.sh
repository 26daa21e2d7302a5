#!/usr/bin/env bash
# Sets a host up for kineray. `ray up` runs it on every node (setup_commands); it may be run again.
#
#   set_up_node.sh NAME=VALUE...
#
# Installs the exact versions of requirements.lock and the package, both from the copy of the
# repository that contains this file, and exports the settings NAME=VALUE to every shell (also that
# of `ray submit`) and to all processes that Ray starts. Three of them are used by this script:
#   KINERAY_ENVIRONMENT   an existing virtual environment (on a shared disk, in the host's image) to
#                         use instead of a new one
#   MLFLOW_TRACKING_URI   an existing MLflow server; default: the one on the head
#   NETWORK_INTERFACE     through which workers communicate; default: that of the default route
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

# Ray sets RAY_HEAD_IP for the set-up of workers; the head takes its own address.
address=$(hostname -I | cut -d' ' -f1)
head=${RAY_HEAD_IP:-$address}
# By default, gloo and NCCL may pick the loopback or a bridge that no other host can reach.
interface=${NETWORK_INTERFACE:-$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)}

exports=$HOME/.kineray_env
{
  printf 'export PATH=%q:$PATH\n' "$KINERAY_ENVIRONMENT/bin"
  printf 'export PYTHONPATH=%q\n' "$repository/platform"
  printf 'export GLOO_SOCKET_IFNAME=%q NCCL_SOCKET_IFNAME=%q\n' "$interface" "$interface"
  printf 'export MLFLOW_TRACKING_URI=%q\n' "${MLFLOW_TRACKING_URI:-http://$head:5000}"
  echo 'export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=kineray.serving.proxy:middlewares'
  for setting in "$@"; do
    printf 'export %s=%q\n' "${setting%%=*}" "${setting#*=}"
  done
} >"$exports.new"
mv "$exports.new" "$exports"

# At the start of the file, since some .bashrc return early.
touch ~/.bashrc
if ! grep -qxF '. ~/.kineray_env' ~/.bashrc; then
  { echo '. ~/.kineray_env'; cat ~/.bashrc; } >~/.bashrc.new
  mv ~/.bashrc.new ~/.bashrc
fi
