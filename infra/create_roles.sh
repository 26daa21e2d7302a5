#!/usr/bin/env bash
# Creates the IAM roles and instance profiles kineray-head and kineray-worker from the policies in infra/iam; may
# be run again. You need the right to change IAM.
#
#   infra/create_roles.sh BUCKET
#
# Workers may use the bucket. The head may also start and end instances and give them the worker's role.
set -euo pipefail
bucket=${1:?usage: create_roles.sh BUCKET}
policies=$(cd "$(dirname "$0")/iam" && pwd)
trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": {"Service": "ec2.amazonaws.com"}}]}'

for kind in head worker; do
  role=kineray-$kind
  if ! aws iam get-role --role-name "$role" >/dev/null 2>&1; then
    aws iam create-role --role-name "$role" --assume-role-policy-document "$trust" >/dev/null
    aws iam create-instance-profile --instance-profile-name "$role" >/dev/null
    aws iam add-role-to-instance-profile --instance-profile-name "$role" --role-name "$role"
  fi
  aws iam put-role-policy --role-name "$role" --policy-name kineray \
    --policy-document "$(sed "s|BUCKET|$bucket|g" "$policies/$kind.json")"
  echo "$role"
done
