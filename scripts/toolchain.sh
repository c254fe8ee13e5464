# Sourced by the scripts that build. Not a program of its own.
# shellcheck shell=bash

# Ends the script unless there is a Rust toolchain that is new enough. sudo has a short PATH and another home: the toolchain is
# the calling user's.
need_cargo() {
    local home wanted found as_user=''
    if [[ -n ${SUDO_USER:-} ]]; then
        as_user=" (as $SUDO_USER, without sudo)"
        if ! command -v cargo >/dev/null; then
            home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
            export PATH="$PATH:$home/.cargo/bin" CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        fi
    fi
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
    if ! command -v cargo >/dev/null || ! found=$(rustc --version 2>/dev/null); then
        echo "$0: there is no Rust toolchain; Punch needs Rust $wanted or newer. Type$as_user:" >&2
        how_to_install >&2
        exit 1
    fi
    # "rustc 1.91.0-nightly (...)"
    found=${found#rustc }
    found=${found%%[ -]*}
    if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
        echo "$0: Rust $found ($(command -v cargo)) is too old; Punch needs $wanted or newer. Type$as_user:" >&2
        if [[ -n ${RUSTUP_TOOLCHAIN:-} ]]; then
            echo "    unset RUSTUP_TOOLCHAIN    # it chooses $RUSTUP_TOOLCHAIN" >&2
        fi
        if command -v rustup >/dev/null; then
            echo "    rustup update stable && rustup default stable" >&2
        else
            how_to_install >&2
        fi
        exit 1
    fi
}

# As https://rustup.rs says; the second line is for the shell that is open already.
how_to_install() {
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    # shellcheck disable=SC2016
    echo '    . "$HOME/.cargo/env"'
}
