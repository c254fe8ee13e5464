//! Servers that people really share: a database and a name server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use harness::{
    Child, Host, Lab, Namespace, Output, PATIENCE, number_from_env, receive_hashed, tool,
    wait_until,
};

/// A PostgreSQL that listens on 127.0.0.1 of a host only.
struct Postgres {
    folder: PathBuf,
    _server: Child,
}

impl Postgres {
    #[track_caller]
    fn start(host: &Namespace, port: u16) -> Self {
        let folder = host.dir.join("postgres");
        fs::create_dir(&folder).unwrap();
        let (user, group) = account("postgres");
        chown(&folder, Some(user), Some(group)).unwrap();
        let (data, sockets) = (
            format!("{}/data", folder.display()),
            folder.display().to_string(),
        );
        let setpriv = tool("setpriv", "util-linux");
        let as_postgres = [
            &setpriv,
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--clear-groups",
        ];
        let initdb = postgres_tool("initdb");
        let arguments = [
            "-D",
            &data,
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale",
            "C",
        ];
        host.exec_ok(&[&as_postgres[..], &[&initdb], &arguments].concat());
        let (postgres, port) = (postgres_tool("postgres"), port.to_string());
        let arguments = [
            "-D",
            &data,
            "-k",
            &sockets,
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
        ];
        let server = host.spawn(
            "postgres",
            &[&as_postgres[..], &[&postgres], &arguments].concat(),
        );
        let psql = tool("psql", "postgresql-client");
        wait_until(PATIENCE, "PostgreSQL answers on its own host", || {
            host.exec(&[
                &psql,
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "postgres",
                "-c",
                "SELECT 1",
            ])
            .success()
        });
        Self {
            folder,
            _server: server,
        }
    }
}

fn postgres_tool(name: &str) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let found = versions
        .map(|version| version.path().join("bin").join(name))
        .find(|path| path.is_file());
    found
        .unwrap_or_else(|| panic!("no {name}: apt-get install postgresql"))
        .display()
        .to_string()
}

fn account(name: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")));
    let fields: Vec<_> = line
        .unwrap_or_else(|| panic!("no user {name}"))
        .split(':')
        .collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// psql on this host, to a server elsewhere.
fn psql(host: &Host, server: IpAddr, command: &str) -> Output {
    let psql = tool("psql", "postgresql-client");
    let server = server.to_string();
    host.exec(&[
        &psql,
        "-h",
        &server,
        "-U",
        "postgres",
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        command,
    ])
}

fn checksum(path: &Path) -> (u64, String) {
    receive_hashed(&mut File::open(path).unwrap()).unwrap()
}

/// PUNCH_TEST_COPY_BYTES sets how much is copied each way.
#[test]
fn a_database_is_used_through_a_forward() {
    need_lab!();
    let size = number_from_env("PUNCH_TEST_COPY_BYTES", 20 << 20);
    let lab = Lab::connected("pg", "port-restricted", "address-restricted");
    let server = Postgres::start(&lab.b, 5432);
    let database = lab.b.ipv4();
    assert!(
        psql(&lab.a, database, "SELECT 1")
            .stderr
            .contains("refused"),
        "not shared yet"
    );
    lab.b.ctl_ok(&["forward", "tcp", "5432"]);
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        assert_eq!(
            psql(&lab.a, address, "SELECT 6 * 7").ok().trim(),
            "42",
            "{address}"
        );
    }

    let path = |name: &str| lab.dir.join(name);
    let mut upload = std::io::BufWriter::new(File::create(path("upload")).unwrap());
    let (mut written, mut number) = (0, 0_u64);
    while written < size {
        let line = format!(
            "{number}\t{:x}{:x}\n",
            number.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            number.wrapping_mul(0xD6E8_FEB8_6659_FD93)
        );
        upload.write_all(line.as_bytes()).unwrap();
        written += line.len() as u64;
        number += 1;
    }
    upload.into_inner().unwrap().sync_all().unwrap();
    let sent = checksum(&path("upload"));
    psql(
        &lab.a,
        database,
        "CREATE TABLE lines (number bigint, text text)",
    )
    .ok();
    psql(
        &lab.a,
        database,
        &format!("\\copy lines FROM '{}'", path("upload").display()),
    )
    .ok();
    const IN_ORDER: &str = "SELECT * FROM lines ORDER BY number";
    // What the server wrote down, seen by itself.
    let kept = server.folder.join("kept");
    psql(
        &lab.a,
        database,
        &format!("COPY ({IN_ORDER}) TO '{}'", kept.display()),
    )
    .ok();
    assert_eq!(checksum(&kept), sent, "COPY to the server");
    psql(
        &lab.a,
        lab.b.ipv6(),
        &format!("\\copy ({IN_ORDER}) TO '{}'", path("download").display()),
    )
    .ok();
    assert_eq!(checksum(&path("download")), sent, "COPY from the server");

    // A query that is cancelled half-way takes nothing else with it.
    let endless =
        "SET statement_timeout = 200; SELECT count(*) FROM generate_series(1, 1000000000000)";
    assert!(
        psql(&lab.a, database, endless)
            .stderr
            .contains("statement timeout")
    );
    assert_eq!(
        psql(&lab.a, database, "SELECT count(*) FROM lines")
            .ok()
            .trim(),
        number.to_string()
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "two machines are connected once for all questions"
)]
fn a_name_server_answers_through_a_udp_forward() {
    need_lab!();
    let lab = Lab::connected("dns", "full-cone", "port-restricted");
    // Long enough that the answer does not fit the tunnel's MTU: it comes in fragments.
    let text = format!(
        "--txt-record=big.test{}",
        format!(",{}", "x".repeat(200)).repeat(12)
    );
    let dnsmasq = tool("dnsmasq", "dnsmasq-base");
    let server = lab.b.spawn(
        "dnsmasq",
        &[
            &dnsmasq,
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--group=root",
            "--pid-file=",
            "--log-facility=-",
            "--port=5300",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--edns-packet-max=4096",
            "--address=/small.test/192.0.2.7",
            &text,
        ],
    );
    let dig = tool("dig", "bind9-dnsutils");
    let ask = |host: &Namespace, server: &str, port: &str, arguments: &[&str]| {
        let server = format!("@{server}");
        host.exec(
            &[
                &[
                    &*dig,
                    &server,
                    "-p",
                    port,
                    "+tries=3",
                    "+time=5",
                    "+notcp",
                    "+ignore",
                    "+bufsize=4096",
                ],
                arguments,
            ]
            .concat(),
        )
    };
    wait_until(PATIENCE, "dnsmasq answers on its own host", || {
        ask(&lab.b, "127.0.0.1", "5300", &["+short", "small.test"])
            .stdout
            .trim()
            == "192.0.2.7"
    });
    lab.b
        .ctl_ok(&["forward", "udp", "53", "--to", "127.0.0.1:5300"]);
    for address in [lab.b.ipv4(), lab.b.ipv6()] {
        let address = address.to_string();
        let small = ask(&lab.a, &address, "53", &["+short", "small.test"]).ok();
        assert_eq!(small.trim(), "192.0.2.7", "{address}");
        let big = ask(&lab.a, &address, "53", &["big.test", "TXT"]).ok();
        assert_eq!(
            big.matches(&"x".repeat(200)).count(),
            12,
            "{address}: {big}"
        );
        let size = big
            .lines()
            .find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "))
            .unwrap();
        assert!(
            size.parse::<u32>().unwrap() > 1500,
            "{address}: {size} bytes"
        );
    }
    assert_eq!(
        lab.b.ctl_json(&["forwards"])[0]["total"],
        4,
        "one flow for each dig"
    );
    drop(server);
    // A closed port of the target is told, as it would be on its own host.
    let refused = ask(&lab.a, &lab.b.ipv4().to_string(), "53", &["small.test"]);
    assert!(refused.stdout.contains("refused"), "{refused:?}");
}
