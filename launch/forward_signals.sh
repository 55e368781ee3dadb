#!/usr/bin/env bash
# Sourced by launchers that do not forward signals as the training needs them.

# wait_and_forward SIGNAL WHOM COMMAND..: runs COMMAND, waits for its end and returns its status. TERM, INT and USR1 sent to this script
# are forwarded as SIGNAL to the command (WHOM=command) or to the processes that it has started (WHOM=children): every rank saves and ends.
wait_and_forward() {
    local signal="$1" whom="$2" status=0 child forward
    shift 2
    "$@" &
    child=$!
    forward="kill -$signal $child"
    [ "$whom" = command ] || forward="pkill -$signal -P $child"
    # shellcheck disable=SC2064 # the process id of now
    trap "$forward || :" TERM INT USR1
    wait "$child" || status=$?
    # A signal ends `wait`, not the command.
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    return "$status"
}
