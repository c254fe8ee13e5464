//! Somebody else.

use std::path::PathBuf;
use std::process::Command;

use super::{Child, Lab, Output, PATIENCE, program, run, wait_until};

/// A third punchd, on the machine of the servers.
#[derive(Debug)]
pub struct Stranger {
    dir: PathBuf,
    _punchd: Child,
}

impl Stranger {
    /// Starts it, and waits until it answers.
    #[track_caller]
    pub fn start(lab: &Lab) -> Self {
        let dir = lab.dir.join("stranger");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("toml"), "").unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let (config, state, socket) = (at("toml"), at("state"), at("sock"));
        let mut argv = vec![program("punchd")];
        for (option, value) in [
            ("--config", config),
            ("--state-dir", state),
            ("--socket", socket),
        ] {
            argv.extend([option.to_owned(), value]);
        }
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        let this = Self {
            _punchd: lab.server.spawn("stranger", &argv),
            dir,
        };
        wait_until(PATIENCE, "the stranger's punchd answers", || {
            this.ctl(&["id"]).success()
        });
        this
    }

    /// Runs punchctl for it.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("punchctl"));
        run(command
            .arg("--socket")
            .arg(self.dir.join("sock"))
            .args(arguments))
    }
}
