#!/usr/bin/env bash
# Starts the MLflow server of a cluster on its head, unless it is running, and waits until it answers.
# Its database is ~/mlflow/mlflow.db on the head's disk, or MLFLOW_BACKEND_STORE_URI (use PostgreSQL for
# sweeps of more than about twenty concurrent trials); its artifacts go into the storage.
set -euo pipefail
address=$(hostname -I | cut -d' ' -f1)
if [ "$MLFLOW_TRACKING_URI" != "http://$address:5000" ]; then
  echo "MLflow is elsewhere: $MLFLOW_TRACKING_URI"
  exit 0
fi
answers() { python -c "import urllib.request as r; r.urlopen('$MLFLOW_TRACKING_URI/health', timeout=2)" 2>/dev/null; }
answers && exit 0

mkdir -p ~/mlflow
# Only requests to these host names are answered: nodes use the address, an ssh tunnel uses localhost.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
setsid nohup mlflow server --host 0.0.0.0 --port 5000 --workers 2 \
  --allowed-hosts "$address:5000,localhost:5000,127.0.0.1:5000" \
  --backend-store-uri "${MLFLOW_BACKEND_STORE_URI:-sqlite:///$HOME/mlflow/mlflow.db}" \
  --artifacts-destination "$KINERAY_STORAGE/artifacts" \
  >~/mlflow/server.log 2>&1 </dev/null &
for _ in $(seq 120); do
  answers && exit 0
  sleep 1
done
tail -n 20 ~/mlflow/server.log >&2
exit 1
