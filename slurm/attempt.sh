#!/usr/bin/env bash
# One life of a training job: preflight, training, and what becomes of the job. Called by slurm/pretrain_*.sh with their settings in the
# environment. It passes signals on and does what `python -m jadeberta.jobs.lifecycle` says; nothing is decided here.
set -uo pipefail

{ # read as a whole before anything of it runs: the file may be changed while the job lives
# %a in a setting is the task of a job array.
for name in RECIPE RUN_DIR SHARDS EXTRA; do
    value="${!name:-}"
    printf -v "$name" '%s' "${value//%a/${SLURM_ARRAY_TASK_ID:-}}"
done
# shellcheck disable=SC2153 # EXTRA is a setting
read -ra extra <<<"$EXTRA"
options=(--config "$RECIPE" --run.dir "$RUN_DIR" --data.shards "$SHARDS" "${extra[@]}")
OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
JADEBERTA_LAST_WORDS="$RUN_DIR/logs/last-words"
export OMP_NUM_THREADS JADEBERTA_LAST_WORDS
# Slurm's own variables tell the ranks who they are and where to meet; what is left over from another job must not.
unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT

. slurm/container.sh

books() { # WORD OPTION..: one line of words from jadeberta.jobs.lifecycle
    local call=("${python[@]}" -m jadeberta.jobs.lifecycle "$@" "${options[@]}")
    case "$CONTAINER" in
        pyxis:*) "${step[@]}" --overlap --nodes=1 --ntasks=1 "${call[@]}" ;;
        *) ${replace:+exec} "${call[@]}" ;;
    esac
}
field() { scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }
nodes() { sinfo --noheader --Node ${SLURM_JOB_PARTITION:+--partition="$SLURM_JOB_PARTITION"} --states="$1" --format=%N 2>/dev/null | sort -u | tr '\n' ' '; }
usable() { nodes idle,alloc,mix,comp; }

child=""
# shellcheck disable=SC2317 # called by the traps
forward() { # SIGNAL: srun hands it to every rank
    echo "$(date '+%F %T') jadeberta: SIG$1 for the job; the ranks save and end" >&2
    signalled="$1"
    [ -z "$child" ] || kill "-$1" "$child" 2>/dev/null
    # Where saving takes too long the job would run into its limit, and Slurm requeues none that did.
    [ "$1" = TERM ] || [ -n "$guard" ] || { end_before_limit & guard=$!; }
}
# shellcheck disable=SC2317
end_before_limit() {
    local at left
    at="$(date -d "$(squeue --noheader --job "$SLURM_JOB_ID" --format=%e)" +%s)" || return
    left=$((at - $(date +%s) - RESERVE))
    sleep "$((left > 5 ? left : 5))" & wait "$!"
    kill -KILL "$child" 2>/dev/null
}
RESERVE=20 # seconds before the time limit that this script needs for itself
signalled="" guard=""
trap 'forward USR1' USR1
trap 'forward TERM' TERM

attend() { # WATCH COMMAND..: waits for it through all signals; its status. WATCH is called with its process, beside it
    local watch="$1" watcher status again
    shift
    "$@" &
    child=$!
    "$watch" "$child" &
    watcher=$!
    [ -z "$signalled" ] || kill "-$signalled" "$child" 2>/dev/null # that came just now
    wait "$child"
    status=$?
    # A signal ends `wait` early; the status is then the signal's, not the child's.
    while [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
        wait "$child"
        status=$?
    done
    wait "$child" 2>/dev/null
    again=$?
    [ "$again" = 127 ] || status=$again
    kill "$watcher" 2>/dev/null
    child=""
    return "$status"
}

act() { # ACTION STATUS HOSTS: does what was decided, and ends
    [ -z "$guard" ] || kill "$guard" 2>/dev/null
    local hosts="${3#-}"
    case "$1" in
        requeue)
            trap '' TERM # requeuing sends it to this script
            if scontrol requeue "$SLURM_JOB_ID"; then
                # Otherwise Slurm waits two minutes. Not now: a job that starts on the same host in the same second fails.
                scontrol update "JobId=$SLURM_JOB_ID" "ExcNodeList=$hosts" "StartTime=now+$REST" ||
                    scontrol update "JobId=$SLURM_JOB_ID" "StartTime=now+$REST"
            else
                echo "the job cannot be requeued; submit it again${hosts:+ with --exclude=$hosts}" >&2
            fi
            ;;
        next)
            [ -z "$hosts" ] || squeue --noheader --me --name="$SLURM_JOB_NAME" --states=PENDING --format=%A |
                while read -r job; do scontrol update "JobId=$job" "ExcNodeList=$hosts"; done
            ;;
        stop)
            # The jobs of a chain would only end alike.
            [ "$NEXT" != singleton ] || scancel --me --name="$SLURM_JOB_NAME" --state=PENDING
            ;;
    esac
    exit "$2"
}
REST="${REST:-15}" # seconds until a requeued job may start; sooner its old step may still be in the way

decide() { # fit or end, OPTION..: asks the books with what Slurm knows now
    local state
    for _ in {1..18}; do # a controller that is away for three minutes is no reason to end a run
        state="$(field JobState)"
        [ -z "$state" ] || break
        sleep 10
    done
    books "$@" --next "$NEXT" --state "${state:-UNKNOWN}" --usable "$(usable)"
}

books begin --excluded "$(field ExcNodeList)" --down "$(nodes down,fail,drain)" || act stop "$?" -

ranks="${SLURM_NTASKS:-$((SLURM_NTASKS_PER_NODE * SLURM_JOB_NUM_NODES))}"
size=(--ntasks="$ranks")
if [ "$PREFLIGHT" = yes ]; then
    attend true "${step[@]}" --kill-on-bad-exit=0 --wait=60 "${python[@]}" -m jadeberta preflight "${options[@]}"
    read -r word first second third <<<"$(decide fit --tasks "$((ranks / SLURM_JOB_NUM_NODES))")"
    case "$word" in
        go) ;;
        without)
            left=$((SLURM_JOB_NUM_NODES - $(tr ',' '\n' <<<"$first" | wc -l)))
            size=(--exclude="$first" --nodes="$left" --ntasks="$second")
            options+=(--training.micro_batch_size "$third")
            ;;
        requeue | next | stop | leave) act "$word" "$first" "$second" ;;
        *) act stop 1 - ;;
    esac
fi
# A host that nobody can reach keeps srun waiting for minutes after all other ranks have ended.
# shellcheck disable=SC2317 # attend calls it
give_up_when_late() {
    local word
    word="$(replace=yes books watch)" # its parent is then this subshell, with which it ends
    [ "$word" != late ] || kill -KILL "$1" 2>/dev/null
}

# One task a GPU. A rank that ends badly takes the others with it instead of leaving them in a collective.
if [ -n "$signalled" ]; then
    status=11
else
    attend give_up_when_late "${step[@]}" "${size[@]}" --kill-on-bad-exit=1 "${python[@]}" -m jadeberta pretrain "${options[@]}"
    status=$?
fi

# Who still answers? A host that is gone has not said so, and Slurm itself takes minutes to find out.
answered=""
if [ "$status" != 0 ] && [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    # shellcheck disable=SC2016 # the step's shell is to fill in its own name
    answered="$(timeout 30 srun --export=ALL --overlap --kill-on-bad-exit=0 --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        bash -c 'echo "$SLURMD_NODENAME"' 2>/dev/null | tr '\n' ' ')"
fi
read -r word ending hosts <<<"$(decide end --status "$status" --answered "$answered")"
act "${word:-stop}" "${ending:-$((status > 0 ? status : 1))}" "${hosts:--}"
}
