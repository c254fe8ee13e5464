# Sourced by the scripts that build. Not a program of its own.
# shellcheck shell=bash

# sudo has a short PATH and another home; the toolchain is the calling user's.
need_cargo() {
    local home
    if ! command -v cargo >/dev/null && [[ -n ${SUDO_USER:-} ]]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        export PATH="$PATH:$home/.cargo/bin" CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
    if ! command -v cargo >/dev/null; then
        echo "$0: there is no Rust toolchain: install one with rustup" >&2
        exit 1
    fi
}
