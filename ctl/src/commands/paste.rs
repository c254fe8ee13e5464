//! `punchctl offer` and `punchctl answer`: lines that a person carries between two machines.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use hyper::Method;
use punch_api::{AnswerLine, PasteStep, PasteView};

use super::answer::parse;
use super::up;
use crate::arguments::{AnswerArguments, OfferArguments, ShowArguments};
use crate::client::{Client, Failure};
use crate::input::{limited, text_from_stdin};
use crate::output::{Output, complain};

pub(crate) async fn offer(
    client: &Client,
    out: &Output,
    ask: OfferArguments,
) -> Result<(), Failure> {
    let OfferArguments { peer, file, show } = ask;
    refuse_existing(file.as_deref(), &show)?;
    let path = format!("/v1/peers/{peer}/offer");
    let answer = client.call(Method::POST, &path, &()).await?;
    let view: PasteView = parse(answer.clone())?;
    if out.json {
        out.value(&answer);
    }
    present(out, &view, file.as_deref(), &show)?;
    if !out.json {
        let carried = carried(file.as_deref());
        out.note(&match file {
            Some(_) => format!(
                "On {peer}, within ten minutes: punchctl answer {carried} --write ANSWER; then here: punchctl answer --file ANSWER"
            ),
            None => format!(
                "On {peer}, within ten minutes: punchctl answer {carried}; then here the line that it prints: punchctl answer LINE"
            ),
        });
    }
    Ok(())
}

pub(crate) async fn answer(
    client: &Client,
    out: &Output,
    ask: AnswerArguments,
) -> Result<(), Failure> {
    refuse_existing(ask.write.as_deref(), &ask.show)?;
    let line = match &ask.file {
        Some(path) => read(path)?,
        None if ask.line == ["-"] => text_from_stdin("the line")?,
        None => ask.line.concat(),
    };
    let answer = client
        .call(Method::POST, "/v1/answer", &AnswerLine { line })
        .await?;
    let view: PasteView = parse(answer.clone())?;
    if view.step == PasteStep::Connecting {
        return up::up(client, out, &view.peer, Some(ask.timeout), None).await;
    }
    if out.json {
        out.value(&answer);
    }
    present(out, &view, ask.write.as_deref(), &ask.show)?;
    if !out.json {
        out.note(&format!(
            "On {}, within ten minutes: punchctl answer {}",
            view.peer,
            carried(ask.write.as_deref())
        ));
    }
    Ok(())
}

/// What is typed on the other machine.
fn carried(file: Option<&Path>) -> &'static str {
    match file {
        Some(_) => "--file PATH",
        None => "LINE",
    }
}

/// Shows a line, or writes it.
fn present(
    out: &Output,
    view: &PasteView,
    file: Option<&Path>,
    show: &ShowArguments,
) -> Result<(), Failure> {
    let Some(line) = &view.line else {
        return Ok(());
    };
    match file {
        Some(path) => write(path, line, show.overwrite)?,
        None if out.json => {}
        None => out.line(line),
    }
    if show.qr && !out.json {
        // Capitals take less room in a QR code, and are read as small letters.
        if !out.qr(&line.to_ascii_uppercase()) {
            complain("the QR code needs a wider terminal: about 120 columns");
        }
    }
    Ok(())
}

/// Says that a file is there before anything has happened.
fn refuse_existing(file: Option<&Path>, show: &ShowArguments) -> Result<(), Failure> {
    match file.filter(|path| !show.overwrite && path.exists()) {
        Some(path) => Err(exists(path)),
        None => Ok(()),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Refused(format!(
        "{} is there already; to replace it: --overwrite",
        path.display()
    ))
}

fn write(path: &Path, line: &str, overwrite: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    match overwrite {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options
        .write(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{line}"));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::Other(format!("cannot write {}: {error}", path.display())),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = File::open(path).and_then(limited);
    text.map_err(|error| Failure::Other(format!("cannot read {}: {error}", path.display())))
}
