#!/usr/bin/env bash
# One attempt of a training job: preflight, training, and what happens to the job then. Called by slurm/pretrain_*.sh with their settings
# in the environment. It forwards signals and does what `python -m jadeberta.jobs.lifecycle` answers; nothing is decided here.
set -uo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/attempt.sh is a part of a Slurm job: submit 'sbatch slurm/pretrain_large.sh'." >&2; exit 2; }

{ # bash reads a block as a whole before it runs it, so the file may change while the job runs
# %a in a setting is the task of a job array. No shell has expanded the ~ of --export=RUN_DIR=~/runs/large.
for name in RECIPE RUN_DIR SHARDS EXTRA; do
    value="${!name:-}"
    value="${value/#\~\//$HOME/}"
    printf -v "$name" '%s' "${value//%a/${SLURM_ARRAY_TASK_ID:-}}"
done
# shellcheck disable=SC2153 # EXTRA is a setting
read -d '' -ra extra <<<"$EXTRA" || :
options=(--config "$RECIPE" --run.dir "$RUN_DIR" --data.shards "$SHARDS" "${extra[@]}")
OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
JADEBERTA_EXIT_REASONS="$RUN_DIR/logs/exit-reasons"
export OMP_NUM_THREADS JADEBERTA_EXIT_REASONS
# Slurm's own variables give the ranks their numbers and address; variables left over from another launcher would contradict them.
unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT

. slurm/container.sh

lifecycle() { # VERB OPTION..: prints the one line that jadeberta.jobs.lifecycle answers
    local call=("${python[@]}" -m jadeberta.jobs.lifecycle "$@" "${options[@]}")
    case "$CONTAINER" in
        pyxis:*) "${step[@]}" --overlap --nodes=1 --ntasks=1 "${call[@]}" ;;
        *) ${replace:+exec} "${call[@]}" ;;
    esac
}
# The page about the run is worth nothing to the job: a failure of it changes nothing, and it is never waited for longer than its limit.
REPORT="${REPORT:-3600}" # seconds between two writes of RUN_DIR/report.html; 0: never
[[ "$REPORT" =~ ^[0-9]+$ ]] || { echo "REPORT=$REPORT is no number of seconds; no report is written" >&2; REPORT=0; }
report() { # SECONDS: writes the page, within so many seconds
    [ "$REPORT" -gt 0 ] || return 0
    local call=("${python[@]}" -m jadeberta report "$RUN_DIR")
    case "$CONTAINER" in
        pyxis:*) call=("${step[@]}" --overlap --nodes=1 --ntasks=1 "${call[@]}") ;;
    esac
    timeout --kill-after=2 "$1" nice -n 19 "${call[@]}" </dev/null >/dev/null 2>&1 || :
}
# shellcheck disable=SC2317 # started in the background
report_hourly() {
    local nap=""
    trap 'kill $nap 2>/dev/null; exit 0' TERM
    while [ "$REPORT" -gt 0 ]; do
        sleep "$REPORT" & nap=$!
        wait "$nap" || return 0
        report 600
    done
}
field() { scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }
nodes() { sinfo --noheader --Node ${SLURM_JOB_PARTITION:+--partition="$SLURM_JOB_PARTITION"} --states="$1" --format=%N 2>/dev/null | sort -u | tr '\n' ' '; }
usable() { nodes idle,alloc,mix,comp; }

child=""
# shellcheck disable=SC2317 # called by the traps
forward() { # SIGNAL: sends it to srun, which sends it to every rank
    echo "$(date '+%F %T') jadeberta: SIG$1 for the job; the ranks save and end" >&2
    signalled="$1"
    [ -z "$child" ] || kill "-$1" "$child" 2>/dev/null
    # A save that takes too long would run into the time limit, and Slurm does not requeue a job that did.
    [ "$1" = TERM ] || [ -n "$guard" ] || { end_before_limit & guard=$!; }
}
# shellcheck disable=SC2317
end_before_limit() { # kills srun RESERVE seconds before the time limit
    local at left
    at="$(date -d "$(squeue --noheader --job "$SLURM_JOB_ID" --format=%e)" +%s)" || return
    left=$((at - $(date +%s) - RESERVE))
    sleep "$((left > 5 ? left : 5))" & wait "$!"
    kill -KILL "$child" 2>/dev/null
}
RESERVE=20 # seconds that this script needs for itself before the time limit
signalled="" guard=""
trap 'forward USR1' USR1
trap 'forward TERM' TERM

run_and_wait() { # WATCH COMMAND..: runs a command, waits for it through all signals, returns its status. WATCH PID runs beside it
    local watch="$1" watcher status again
    shift
    "$@" &
    child=$!
    "$watch" "$child" &
    watcher=$!
    [ -z "$signalled" ] || kill "-$signalled" "$child" 2>/dev/null # it came before the child was known
    wait "$child"
    status=$?
    # A signal to this script ends `wait` early; the status is then the signal's, not the child's.
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

act() { # ACTION STATUS HOSTS: carries out a decision, and exits
    [ -z "$guard" ] || kill "$guard" 2>/dev/null
    # After a signal the time limit may be near.
    if [ -n "$signalled" ]; then report 5; else report 30; fi
    local hosts="${3#-}"
    case "$1" in
        requeue)
            trap '' TERM # Slurm sends it to this script when the job is requeued
            if scontrol requeue "$SLURM_JOB_ID"; then
                # Without StartTime Slurm waits two minutes. Not "now": a job that starts on the same host in the same second fails.
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
            # The later jobs of a chain would end alike.
            [ "$NEXT" != singleton ] || scancel --me --name="$SLURM_JOB_NAME" --state=PENDING
            ;;
    esac
    exit "$2"
}
REST="${REST:-15}" # seconds until a requeued job may start; before that its old step may still hold the hosts

decide() { # fit or end, OPTION..: prints the decision on the job, made with what Slurm says about it now
    local state
    for _ in {1..18}; do # a controller that is down for three minutes is no reason to end a run
        state="$(field JobState)"
        [ -z "$state" ] || break
        sleep 10
    done
    lifecycle "$@" --next "$NEXT" --state "${state:-UNKNOWN}" --usable "$(usable)"
}

lifecycle begin --excluded "$(field ExcNodeList)" --down "$(nodes down,fail,drain)" || act stop "$?" -

ranks="${SLURM_NTASKS:-$((SLURM_NTASKS_PER_NODE * SLURM_JOB_NUM_NODES))}"
size=(--ntasks="$ranks")
if [ "$PREFLIGHT" = yes ]; then
    run_and_wait true "${step[@]}" --kill-on-bad-exit=0 --wait=60 "${python[@]}" -m jadeberta preflight "${options[@]}"
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
# A host that nobody can reach keeps srun waiting for minutes after all other ranks have ended; the watch ends srun earlier.
# shellcheck disable=SC2317 # run_and_wait calls it
give_up_when_late() {
    local word parent="$BASHPID"
    [ -z "$CONTAINER" ] || parent=0 # there it is a child of the container's own process
    # It replaces the inner shell, so that this one is its parent and it ends when this one does.
    word="$(replace=yes lifecycle watch --parent "$parent")"
    [ "$word" != late ] || kill -KILL "$1" 2>/dev/null
}

# One task per GPU. When a rank fails, srun ends the others, which would otherwise hang in a collective.
if [ -n "$signalled" ]; then
    status=11 # a signal came before the ranks were started: nothing to save, the job wants another attempt
else
    report_hourly </dev/null >/dev/null 2>&1 &
    reporter=$!
    run_and_wait give_up_when_late "${step[@]}" "${size[@]}" --kill-on-bad-exit=1 "${python[@]}" -m jadeberta pretrain "${options[@]}"
    status=$?
    kill "$reporter" 2>/dev/null
fi

# Which hosts still answer? A host that is gone reports nothing, and Slurm itself takes minutes to notice.
answered=""
if [ "$status" != 0 ] && [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    # shellcheck disable=SC2016 # the shell of the step fills in its own host
    answered="$(timeout 30 srun --export=ALL --overlap --kill-on-bad-exit=0 --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        bash -c 'echo "$SLURMD_NODENAME"' 2>/dev/null | tr '\n' ' ')"
fi
read -r word ending hosts <<<"$(decide end --status "$status" --answered "$answered")"
act "${word:-stop}" "${ending:-$((status > 0 ? status : 1))}" "${hosts:--}"
}
