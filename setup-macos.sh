#!/bin/sh
# Tally on a Mac, from nothing to a system that runs: `./setup-macos.sh [--local] [--dry-run]`. It checks, installs with
# Homebrew what is missing, and starts docker-compose.yml; without Docker, or with --local, the local cluster instead. Run it
# again whenever you like: what is there is left as it is. --dry-run only says what it would do.
set -eu
cd "$(dirname "$0")"

MEMORY_GB=8 # that Docker's virtual machine needs
URL=http://localhost:8000
local_cluster=false dry_run=false

say() { printf '%s\n' "$*"; }
fail() { say "error: $*" >&2 && exit 1; }
run() { # a command that changes something
    if "$dry_run"; then say "would run: $*"; else say "+ $*" && "$@"; fi
}
has() { command -v "$1" >/dev/null 2>&1; }

check_machine() {
    [ "$(uname -s)" = Darwin ] || fail "this is for macOS; on Linux say \`make run\`, or \`docker compose up --build\`"
    has brew || fail "Homebrew is missing: https://brew.sh says how to install it"
}

install() { # PROGRAM FORMULA
    has "$1" || run brew install "$2"
}

has_python() { # Tally needs 3.11 or newer
    has python3 && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

docker_memory() { # whole gigabytes that Docker may use; nothing if it does not run
    bytes=$(docker info --format '{{.MemTotal}}' 2>/dev/null) || return 0
    say $((bytes / 1000000000))
}

docker_is_ready() { # with enough memory for all services
    has docker || return 1
    docker compose version >/dev/null 2>&1 || return 1
    memory=$(docker_memory)
    if [ -z "$memory" ]; then
        say "Docker does not run: open Docker Desktop, or start colima"
        return 1
    fi
    if [ "$memory" -lt "$MEMORY_GB" ]; then
        say "Docker has $memory GB of memory and needs $MEMORY_GB: Docker Desktop, Settings, Resources; or \`colima start --memory $MEMORY_GB\`"
        return 1
    fi
}

networks_are_free() { # no other network of Docker has the addresses of docker-compose.yml
    ours=$(printf '%s|' "${FRONTEND_NET:-10.203.1}" "${BACKEND_NET:-10.203.2}" "${WORKER_NET:-10.203.3}" "${DATA_NET:-10.203.4}")
    ours=$(say "${ours%|}" | sed 's/\./\\./g')
    for network in $(docker network ls --format '{{.Name}}'); do
        case $network in tally-try_*) continue ;; esac
        docker network inspect --format '{{range .IPAM.Config}}{{.Subnet}} {{end}}' "$network"
    done | grep -E "(^| )($ours)\." >/dev/null || return 0
    fail "another network of Docker has addresses of Tally's: set and export FRONTEND_NET, BACKEND_NET, WORKER_NET and DATA_NET (docs/deployment.md)"
}

start_containers() {
    install openssl openssl@3
    networks_are_free
    [ -e secrets/tls-key ] || run deploy/make-secrets
    run docker compose up --build --detach
    say "ready soon: $URL"
}

start_local_cluster() {
    has_python || run brew install python@3.13
    install make make
    if ! has nginx && [ "$(uname -m)" = x86_64 ]; then # the wheel has none for Intel Macs
        run brew install nginx
    fi
    run make install
    run .venv/bin/python manage.py cluster up --detach
}

for argument in "$@"; do
    case $argument in
    --local) local_cluster=true ;;
    --dry-run) dry_run=true ;;
    *) fail "say ./setup-macos.sh [--local] [--dry-run]" ;;
    esac
done
check_machine
install git git
if ! "$local_cluster" && docker_is_ready; then
    start_containers
else
    say "the local cluster is used: it needs no Docker"
    start_local_cluster
fi
