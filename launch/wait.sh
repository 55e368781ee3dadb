#!/usr/bin/env bash
# Sourced by launchers that do not hand signals on as training needs them.

# attend SIGNAL WHOM COMMAND..: runs COMMAND to its end and returns its status. TERM, INT and USR1 sent to the script become SIGNAL for
# the command (WHOM=it) or for what the command has started (WHOM=children); every rank then saves and ends.
attend() {
    local signal="$1" whom="$2" status=0 attended tell
    shift 2
    "$@" &
    attended=$!
    tell="kill -$signal $attended"
    [ "$whom" = it ] || tell="pkill -$signal -P $attended"
    # shellcheck disable=SC2064 # the command of now
    trap "$tell || :" TERM INT USR1
    wait "$attended" || status=$?
    # A signal ends `wait`, not the command.
    while kill -0 "$attended" 2>/dev/null; do
        status=0
        wait "$attended" || status=$?
    done
    return "$status"
}
