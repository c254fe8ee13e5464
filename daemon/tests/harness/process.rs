//! Processes that do not outlive the test.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, wait_for};

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status; 128 + N after signal N, as in a shell.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.success(),
            "status {}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a command to its end, without input; panics when it hangs.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let what = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
    let collect = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(Box::new(child.stdout.take().unwrap()));
    let stderr = collect(Box::new(child.stderr.take().unwrap()));
    let mut child = Child { child, what };
    let status = child.wait(2 * PATIENCE);
    Output {
        status: code(status),
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    what: String,
}

impl Child {
    /// Starts a command that writes what it says to `log`.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let what = format!("{command:?}");
        let file = || {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(log)
                .expect("the log can be opened")
        };
        command.stdin(Stdio::null()).stdout(file()).stderr(file());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
        Self { child, what }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Waits for the end; kills it and panics when that takes too long.
    #[track_caller]
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let until = Instant::now() + timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("does not end in {} s: {}", timeout.as_secs(), self.what);
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of a lab that can be started, stopped and started again; its log goes on.
#[derive(Debug)]
pub struct Program {
    /// Command and arguments; may be changed before a start.
    pub argv: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    pub log: PathBuf,
    namespace: String,
    child: Option<Child>,
}

impl Program {
    pub(super) fn new(namespace: &str, argv: Vec<String>, log: PathBuf) -> Self {
        Self {
            argv,
            env: Vec::new(),
            log,
            namespace: namespace.to_owned(),
            child: None,
        }
    }

    /// Starts it; says nothing about when it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(!self.is_running(), "it runs already: {:?}", self.argv);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .args(&self.argv);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        self.child = Some(Child::start(&mut command, &self.log));
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        let mut child = self.child.take().expect("it runs");
        child.signal(Signal::SIGTERM);
        code(child.wait(PATIENCE))
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.signal(Signal::SIGKILL);
        child.wait(PATIENCE);
    }

    /// Waits for an end that comes by itself.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        code(self.child.take().expect("it runs").wait(PATIENCE))
    }

    pub fn signal(&self, signal: Signal) {
        self.child.as_ref().expect("it runs").signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(Child::is_running)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").pid()
    }

    /// All that it has logged.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits for a text in the log.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let what = format!("{} contains {text:?}", self.log.display());
        wait_for(PATIENCE, &what, || {
            self.log_text().contains(text).then_some(())
        });
    }
}

/// Does `script` in a shell as soon as this process is gone, however it went, or when dropped.
#[derive(Debug)]
pub(super) struct Janitor(std::process::Child);

impl Janitor {
    pub(super) fn hire(script: &str) -> Self {
        // Its standard input is a pipe that nobody writes to: reading ends when our end of it does. In a process group
        // of its own, it is not hit by what kills the test.
        let script = format!("read _; {script}");
        let child =
            std::os::unix::process::CommandExt::process_group(&mut Command::new("/bin/sh"), 0)
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("there is a shell");
        Self(child)
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The last lines of a file.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
