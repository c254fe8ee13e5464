//! punchctl: arguments in, request out, answer rendered.

fn main() -> std::process::ExitCode {
    punchctl::run()
}
