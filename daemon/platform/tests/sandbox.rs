//! What a thread may still do after it has been confined. Rights are a thread's: each test confines one of its own.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "it is a test")]

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use punch_platform::sandbox::{self, Kept, Needs};

struct Places(PathBuf);

impl Places {
    fn new(name: &str) -> Self {
        let name = format!("punch-sandbox-{name}-{}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir_all(place.join("state")).unwrap();
        fs::create_dir_all(place.join("run")).unwrap();
        fs::write(place.join("run/punchd.sock"), "").unwrap();
        fs::write(place.join("secret"), "of somebody else's").unwrap();
        Self(place)
    }

    /// Runs this on a thread that is confined to `state` and `run`.
    fn confined<T: Send>(&self, work: impl FnOnce(&Kept) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let needs = Needs {
                    low_port: false,
                    state: &self.0.join("state"),
                    sockets: &self.0.join("run"),
                };
                work(&sandbox::enter(&needs).unwrap())
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_are_replaced_in_the_state_and_nowhere_else() {
    let places = Places::new("files");
    let at = |name: &str| places.0.join(name);
    places.confined(|kept| {
        fs::write(at("state/.state.json.new"), "new").unwrap();
        fs::rename(at("state/.state.json.new"), at("state/state.json")).unwrap();
        assert_eq!(fs::read_to_string(at("state/state.json")).unwrap(), "new");
        fs::remove_file(at("run/punchd.sock")).unwrap();
        // What the C library looks names up with.
        fs::read_to_string("/etc/passwd").unwrap();
        if kept.landlock == "none" {
            eprintln!("this kernel has no Landlock: the refusals are not tested");
            return;
        }
        for refused in [
            fs::read(at("secret")).map(drop),
            fs::write(at("secret"), ""),
            fs::write(at("run/other"), ""),
            fs::create_dir(at("state/directory")),
            fs::remove_file(at("secret")),
            fs::read_dir(&places.0).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    });
}

#[test]
fn no_program_is_executed() {
    let places = Places::new("exec");
    places.confined(|kept| {
        if kept.landlock == "none" {
            eprintln!("this kernel has no Landlock: the refusal is not tested");
            return;
        }
        let started = Command::new("/bin/true").status();
        assert_eq!(started.unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
fn capabilities_are_gone_but_the_one_for_networks() {
    let places = Places::new("caps");
    let kept = places.confined(Kept::clone);
    assert!(
        ["", "cap_net_admin"].contains(&kept.capabilities.as_str()),
        "{kept:?}"
    );
}
