#!/usr/bin/env bash
# Creates the RayJob of this night from a template, once, and waits for its end.
#
#   start_night.sh TEMPLATE
#
# The name holds the date, so a pod that replaces another one finds the RayJob that is there. Exits with 0 if the night
# ended well, and with 1 otherwise. JOB_NAME and JOB_UID name the Job that will own the RayJob.
set -euo pipefail
template=$1
export HOME=/tmp  # for kubectl's cache: the rest of the file system can't be written
night="$template-$(date +%F)"

found=$(kubectl get rayjob "$night" --ignore-not-found --output name)
if [[ -z $found ]]; then
    kubectl get rayjob "$template" --output json |
        python3 "$(dirname "$0")/copy_template.py" "$night" --owner "$JOB_NAME" "$JOB_UID" |
        kubectl create --filename -
else
    echo "$found is there already"
fi

said=
while true; do
    state=$(kubectl get rayjob "$night" --output 'jsonpath={.status.jobDeploymentStatus} {.status.jobStatus}')
    if [[ $state != "$said" ]]; then
        echo "$(date +%T) $night: $state"
        said=$state
    fi
    case $state in
        "Complete SUCCEEDED") exit 0 ;;
        Complete* | Failed* | ValidationFailed*)
            kubectl get rayjob "$night" --output 'jsonpath={.status.reason}: {.status.message}{"\n"}'
            exit 1
            ;;
    esac
    sleep "${SECONDS_BETWEEN_LOOKS:-30}"
done
