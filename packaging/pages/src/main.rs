//! Writes the manual pages and shell completions of the packages, from the programs' own command lines.
//!
//!     punch-pages DIR DATE        makes DIR/man/*.{1,8} and DIR/completions/{punchctl.bash,punchctl.fish,_punchctl}

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), Some(date), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: punch-pages DIR DATE");
    };
    let date = date.to_string_lossy();
    let directory = Path::new(&directory);
    let pages = directory.join("man");
    let completions = directory.join("completions");
    for place in [&pages, &completions] {
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    write_pages(&pages, &date)?;
    write_completions(&completions)
}

struct Page {
    command: Command,
    section: &'static str,
    files: &'static [(&'static str, &'static str)],
    see_also: &'static str,
}

fn write_pages(directory: &Path, date: &str) -> Result<()> {
    let control = punchctl::arguments::Arguments::command();
    let mut pages = vec![
        Page {
            command: punchd_arguments::Arguments::command(),
            section: "8",
            files: &[
                (
                    "/etc/punch/punchd.toml",
                    "The administrator's configuration, punchd.toml(5).",
                ),
                (
                    "/var/lib/punch/",
                    "Identity, peers, servers and forwards; never edited by hand. identity.key is this machine's secret.",
                ),
                (
                    "/run/punch/punchd.sock",
                    "The control socket, for root and the group punch.",
                ),
            ],
            see_also: "punchctl(1), punchd.toml(5), systemctl(1), journalctl(1)",
        },
        Page {
            command: punch_signal::arguments::Arguments::command(),
            section: "8",
            files: &[("/etc/default/punch-signal", "Environment of the service.")],
            see_also: "punch-stun(8), punchd(8), systemctl(1)",
        },
        Page {
            command: punch_stun_arguments::Arguments::command(),
            section: "8",
            files: &[("/etc/default/punch-stun", "Environment of the service.")],
            see_also: "punch-signal(8), punchd(8), systemctl(1)",
        },
    ];
    collect(
        &mut pages,
        control.disable_help_subcommand(true),
        "punchctl",
    );
    for page in pages {
        write_page(directory, page, date)?;
    }
    Ok(())
}

/// A page for the command, and one for each below it.
fn collect(pages: &mut Vec<Page>, mut command: Command, name: &str) {
    command.build();
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    for sub in below {
        let name = format!("{name}-{}", sub.get_name());
        collect(pages, sub.disable_help_subcommand(true), &name);
    }
    let is_root = name == "punchctl";
    pages.push(Page {
        command: command.display_name(name),
        section: "1",
        files: if is_root {
            &[("/run/punch/punchd.sock", "The control socket of punchd.")]
        } else {
            &[]
        },
        see_also: if is_root {
            "punchd(8), punchd.toml(5)"
        } else {
            "punchctl(1)"
        },
    });
}

fn write_page(directory: &Path, page: Page, date: &str) -> Result<()> {
    let name = page
        .command
        .get_display_name()
        .unwrap_or(page.command.get_name())
        .to_owned();
    let after = page
        .command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_commands = page.command.has_subcommands();
    let man = Man::new(page.command);
    // clap_mangen's own title loses empty and shifts further arguments.
    let mut text = format!(
        ".TH \"{}\" \"{}\" \"{date}\" \"punch {}\" \"Punch\"\n",
        name.to_uppercase(),
        page.section,
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    put_after_help(&mut rest, &after);
    if !page.files.is_empty() {
        rest.control("SH", ["FILES"]);
        for (file, what) in page.files {
            rest.control("TP", []);
            rest.text([bold(*file)]);
            rest.text([roman(*what)]);
        }
    }
    rest.control("SH", ["SEE ALSO"]);
    rest.text([roman(page.see_also)]);
    rest.to_writer(&mut text)?;
    let path = directory.join(format!("{name}.{}", page.section));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What stands below the help of a command: headings that end in a colon, examples that are indented, sentences.
fn put_after_help(page: &mut Roff, text: &str) {
    let mut literal = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let example = line.strip_prefix("  ");
        if literal && example.is_none() {
            page.control("fi", []);
            page.control("RE", []);
            literal = false;
        }
        if let Some(example) = example {
            if !literal {
                page.control("RS", ["4"]);
                page.control("nf", []);
                literal = true;
            }
            page.text([roman(example)]);
        } else if let Some(heading) = line.strip_suffix(':') {
            page.control("SH", [heading.to_uppercase().as_str()]);
        } else if let Some(status) = line.strip_prefix("Exit status: ") {
            page.control("SH", ["EXIT STATUS"]);
            page.text([roman(status)]);
        } else {
            page.control("PP", []);
            page.text([roman(line)]);
        }
    }
    if literal {
        page.control("fi", []);
        page.control("RE", []);
    }
}

fn write_completions(directory: &Path) -> Result<()> {
    let shells: [(&str, &dyn EnvCompleter); 3] = [
        ("punchctl.bash", &Bash),
        ("punchctl.fish", &Fish),
        ("_punchctl", &Zsh),
    ];
    for (name, shell) in shells {
        let mut text = Vec::new();
        shell.write_registration("COMPLETE", "punchctl", "punchctl", "punchctl", &mut text)?;
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
