# Sourced by demo and bench: two hosts behind two NATs with servers and running daemons. Not a program of its own.
# shellcheck shell=bash disable=SC2034,SC2154
# Sets and uses: root, lab, dir, bin, and signal_options, what punch-signal is told beside its address.
signal_options=()

# shellcheck source=scripts/toolchain.sh
. scripts/toolchain.sh

need_root_and_cargo() {
    if [[ $(id -u) != 0 ]]; then
        echo "$0: needs root to make network namespaces: sudo $0" >&2
        exit 1
    fi
    need_cargo
}

# The programs as the packages have them: for figures.
build_release() {
    scripts/install-tools
    cargo build --release --locked --workspace --exclude punch-pages --bins
    give_back
    bin=${CARGO_TARGET_DIR:-$PWD/target}/release
    export LAB_NAT=$bin/lab-nat
}

# Optimized, and built several times faster (see `quick` in Cargo.toml): for everything that is no figure.
build_quick() {
    cargo build --profile quick --locked --bin punchd --bin punchctl --bin punch-signal --bin punch-stun --bin lab-nat
    give_back
    bin=${CARGO_TARGET_DIR:-$PWD/target}/quick
    export LAB_NAT=$bin/lab-nat
}

in_host() { scripts/lab exec --name "$lab" "$@"; }

# What runs in a host for as long as the lab: in_back HOST LOG COMMAND...
in_back() {
    local host=$1 log=$2
    shift 2
    # With exec all the way down the process id is the program's own.
    (exec scripts/lab exec --name "$lab" "$host" "$@" >>"$dir/$log.log" 2>&1) &
    last_pid=$!
}

quiet_ctl() {
    local host=$1
    shift
    "$bin/punchctl" --socket "$dir/$host.sock" "$@"
}

ctl() {
    printf '%s$ punchctl %s\n' "$1" "${*:2}"
    quiet_ctl "$@"
}

wait_for() {
    local what=$1
    shift
    for _ in $(seq 400); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.025
    done
    echo "$0: $what did not come up; the logs:" >&2
    tail -n 20 "$dir"/*.log >&2
    exit 1
}

now_ms() { date +%s%3N; }

start_servers() {
    in_back server signal "$bin/punch-signal" --listen '[::]:8080' "${signal_options[@]}"
    signal_pid=$last_pid
    in_back server stun "$bin/punch-stun" --listen "$SERVER_IPV4:3478" --alternate "$SERVER_IPV4_ALT" \
        --listen "[$SERVER_IPV6]:3478" --alternate "$SERVER_IPV6_ALT"
    stun_pid=$last_pid
}

# With the lines of $config_a, $config_b or $config as its punchd.toml.
start_daemon() {
    local own=config_$1
    printf '%b\n' "${!own:-${config:-}}" >"$dir/$1.toml"
    in_back "$1" "$1" "$bin/punchd" --config "$dir/$1.toml" --state-dir "$dir/$1" --socket "$dir/$1.sock"
    declare -g "pid_$1=$last_pid"
    wait_for "punchd on $1" quiet_ctl "$1" id
}

# The lab of two hosts, with servers and daemons: lab_up KIND_A KIND_B, or lab_up KIND same, or lab_up KIND carrier
lab_up() {
    dir=$(mktemp -d /tmp/punch-lab.XXXXXX)
    chmod 755 "$dir"
    if [[ $2 == same ]]; then
        scripts/lab up --name "$lab" --same-lan "$1" --owner "$$" >/dev/null
    elif [[ $2 == carrier ]]; then
        scripts/lab up --name "$lab" --same-carrier "$1" --owner "$$" >/dev/null
    else
        scripts/lab up --name "$lab" --a "$1" --b "$2" --owner "$$" >/dev/null
    fi
    eval "$(scripts/lab env --name "$lab")"
    start_servers
    start_daemon a
    start_daemon b
    signal=ws://$SERVER_IPV4:8080
    stun=$SERVER_IPV4
    # A host without IPv4 knows the servers by their IPv6 addresses.
    if [[ -z ${A_IPV4:-} || -z ${B_IPV4:-} ]]; then
        signal="ws://[$SERVER_IPV6]:8080"
        stun="[$SERVER_IPV6]"
    fi
}

lab_down() {
    scripts/lab down --name "$lab" || true
    [[ -n ${dir:-} ]] && rm -rf "$dir"
    unset A_IPV4 B_IPV4 A_IPV6 B_IPV6
}

# Both know the servers and each other: a calls b `db`, b calls a `laptop`.
introduce() {
    local show=$1 host
    for host in a b; do
        "$show" "$host" server add signal "$signal"
        "$show" "$host" server add stun "$stun"
    done
    "$show" a peer add db "$(quiet_ctl b id --json | jq -r .id)"
    "$show" b peer add laptop "$(quiet_ctl a id --json | jq -r .id)"
    db_ipv4=$(quiet_ctl b id --json | jq -r .ipv4)
    db_ipv6=$(quiet_ctl b id --json | jq -r .ipv6)
}

servers_reached() {
    local host count
    for host in a b; do
        count=$(quiet_ctl "$host" server list --json | jq '[.[] | select(.state == "connected")] | length')
        [[ $count -ge 2 ]] || return 1
    done
}

# A PostgreSQL on b at 127.0.0.1:5432.
start_postgres() {
    local pg
    pg=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1)
    install -d -o postgres "$dir/pg"
    in_host b setpriv --reuid postgres --regid postgres --init-groups \
        "$pg/initdb" -D "$dir/pg/data" -A trust -U postgres >"$dir/initdb.log"
    in_back b postgres setpriv --reuid postgres --regid postgres --init-groups \
        "$pg/postgres" -D "$dir/pg/data" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off
    wait_for PostgreSQL in_host b psql -h 127.0.0.1 -U postgres -c 'select 1'
}
