#!/usr/bin/env bash
# Slurm and PostgreSQL on this machine, for as long as it takes to send sweeps through them: `make test-cluster`.
# Everything lives in a temporary folder and on free ports, next to whatever else the machine runs, and is gone at
# the end. As root it installs what is missing from Debian's packages; otherwise it names what is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-.venv/bin/python}
packages=()
command -v slurmctld >/dev/null || packages+=(slurmctld)
command -v slurmd >/dev/null || packages+=(slurmd)
command -v sbatch >/dev/null || packages+=(slurm-client)
command -v munged >/dev/null || packages+=(munge)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
if ((${#packages[@]})); then
    if ((EUID != 0)); then
        echo "missing: apt-get install ${packages[*]}" >&2
        exit 2
    fi
    apt-get update -qq
    # Installing must not start the distribution's own daemons.
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        install -m 755 /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d
        policy=/usr/sbin/policy-rc.d
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    rm -f /tmp/policy-rc.d.$$ ${policy:-}
fi
postgres=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")

folder=$(mktemp -d)
chmod 755 "$folder" # PostgreSQL runs as another user
mkdir "$folder"/{munge,slurm,state,spool,postgres,socket}
chmod 700 "$folder/munge"
started=()

teardown() {
    status=$?
    set +e
    if ((status != 0)); then
        tail -n 30 "$folder"/*.log "$folder"/slurm/*.log "$folder"/munge/*.log 2>/dev/null
    fi
    SLURM_CONF=$folder/slurm/slurm.conf timeout 10 scancel --user="$(id -un)" 2>/dev/null
    [[ -s $folder/mlflow.pid ]] && kill -9 -- "-$(cat "$folder/mlflow.pid")" 2>/dev/null
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        kill "${started[index]}" 2>/dev/null
    done
    for process in "${started[@]}"; do
        timeout 15 tail --pid="$process" -f /dev/null || kill -9 "$process"
    done
    rm -rf "$folder"
    exit "$status"
}
trap teardown EXIT
trap 'exit 130' INT TERM

# start NAME COMMAND...: a daemon in the foreground, with its output in a file.
start() {
    local name=$1
    shift
    "$@" >"$folder/$name.log" 2>&1 &
    started+=($!)
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        ((left-- > 0)) || { echo "gave up waiting for: $*" >&2; return 1; }
        sleep 1
    done
}

free_ports=$("$python" - <<'PORTS'
import socket

sockets = [socket.socket() for _ in range(4)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PORTS
)
read -r ctld_port slurmd_port postgres_port mlflow_port <<<"$free_ports"

echo "== munge and Slurm"
dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
chmod 400 "$folder/munge/key"
chmod 711 "$folder/munge"
start munged munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" --log-file="$folder/munge/munged.log"
wait_for 10 test -S "$folder/munge/socket"

node=$(hostname -s)
read -r cpus memory < <(slurmd -C | sed -nE 's/.*CPUs=([0-9]+) .*RealMemory=([0-9]+).*/\1 \2/p')
cat >"$folder/slurm/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurm/slurmctld.pid
SlurmdPidFile=$folder/slurm/slurmd.pid
SlurmctldLogFile=$folder/slurm/slurmctld.log
SlurmdLogFile=$folder/slurm/slurmd.log
# No cgroups and no systemd: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=cpu Nodes=$node Default=YES OverSubscribe=YES State=UP
CONF
export SLURM_CONF=$folder/slurm/slurm.conf
start slurmctld slurmctld -D
start slurmd slurmd -D
idle() { [[ $(sinfo --noheader --format=%T) == idle ]]; }
wait_for 60 idle
sinfo

echo "== PostgreSQL"
password=$("$python" -c 'import secrets; print(secrets.token_hex(16))')
(umask 077 && echo "$password" >"$folder/password")
as_postgres=()
if ((EUID == 0)); then
    chown postgres "$folder"/{postgres,socket,password}
    as_postgres=(runuser -u postgres --)
fi
(cd / && "${as_postgres[@]}" "$postgres/initdb" --pgdata="$folder/postgres" --username=bertop --auth=scram-sha-256 \
    --encoding=UTF8 --pwfile="$folder/password" >"$folder/initdb.log")
# runuser stays between us and the server, and passes the end on.
start postgres "${as_postgres[@]}" "$postgres/postgres" -D "$folder/postgres" -p "$postgres_port" -h 127.0.0.1 -k "$folder/socket"
export PGPASSWORD=$password
wait_for 30 "$postgres/psql" -h 127.0.0.1 -p "$postgres_port" -U bertop -c 'select 1' postgres
"$postgres/createdb" -h 127.0.0.1 -p "$postgres_port" -U bertop mlflow

echo "== sweeps"
"$python" tests/cluster/sweeps.py --folder "$folder" --port "$mlflow_port" \
    --database "postgresql+psycopg2://bertop:$password@127.0.0.1:$postgres_port/mlflow"
