"""A static reader of the repository's Rust, for scripts/layers and scripts/figures. Needs Python 3 and cargo alone."""
