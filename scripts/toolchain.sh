# Sourced by the scripts that build. Not a program of its own.
# shellcheck shell=bash

# Ends the script unless there is a Rust toolchain that is new enough. sudo has a short PATH and another home: the toolchain is
# the calling user's.
need_cargo() {
    local home wanted found as_user=''
    if [[ -n ${SUDO_USER:-} ]]; then
        as_user=" (as $SUDO_USER, without sudo)"
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        # The user's own toolchain comes before that of the distribution, as in the user's shell.
        if [[ -x $home/.cargo/bin/cargo ]]; then
            export PATH="$home/.cargo/bin:$PATH" CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
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

# Under sudo, what a build has written belongs to the calling user all the same: the next build is that user's.
give_back() {
    if [[ -n ${SUDO_UID:-} && $SUDO_UID != 0 ]]; then
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "${CARGO_TARGET_DIR:-target}" ${CARGO_HOME:+"$CARGO_HOME"}
    fi
}

# As https://rustup.rs says; the second line is for the shell that is open already.
how_to_install() {
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    # shellcheck disable=SC2016
    echo '    . "$HOME/.cargo/env"'
}
